"""Makes a Python environment with the libraries that peers.py times: setup.py FOLDER.

One that cannot be installed is named and left out.
"""

import collections
import pathlib
import platform
import re
import subprocess
import sys
import tempfile
import venv

# Each line is one call of pip. PyTorch comes without the GPU packages that it asks for.
PACKAGES = {
    "onnxruntime": [["numpy", "onnx==1.23.2", "onnxruntime==1.32.0"]],
    "openvino": [["numpy", "onnx==1.23.2", "openvino==2026.4.1"]],
    "jax": [["numpy", "jax==0.10.2", "jaxlib==0.10.2"]],
    "torch": [
        ["filelock", "typing-extensions", "sympy", "networkx", "jinja2", "fsspec", "setuptools", "numpy"],
        ["--no-deps", "torch==2.15.0"],
    ],
    "transformers": [["transformers==5.23.0"]],
    "mambapy": [["--no-deps", "mambapy==1.2.0"]],
    "scipy": [["numpy", "scipy"]],
}


def output(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def stand_ins(folder):
    """PyPI's PyTorch for Linux is linked against GPU libraries of several gigabytes. Where they are
    not installed, puts libraries of the same names beside it whose functions report that there is
    no device, which is all that the CPU needs."""
    libraries = [file for file in folder.glob("*.so*") if re.match(r"lib(torch|c10|caffe2|shm)", file.name)]
    present = {file.name for file in folder.iterdir()}
    owner = {}  # version name -> the library that defines it
    wanted, undefined, defined = set(), set(), set()
    for library in libraries:
        needed = re.findall(r"NEEDED.*\[(.+?)\]", output("readelf", "-dW", library))
        wanted |= {name for name in needed if re.match(r"lib(cu|nv|nccl)", name) and name not in present}
        file = None
        for line in output("readelf", "-VW", library).splitlines():
            if found := re.search(r"File: (\S+)", line):
                file = found[1]
            elif (found := re.search(r"Name: (\S+)\s+Flags", line)) and file:
                owner[found[1]] = file
        for line in output("nm", "-D", "--with-symbol-versions", library).splitlines():
            fields = line.split()
            if fields[0] == "U":
                undefined.add(fields[1])
            elif len(fields) == 3:
                defined.add(fields[2].split("@")[0])
    versions = collections.defaultdict(lambda: collections.defaultdict(set))
    unversioned = set()
    for symbol in undefined:
        name, _, version = symbol.partition("@")
        version = version.lstrip("@")
        if version:
            versions[owner.get(version)][version].add(name)
        elif name not in defined and re.match(r"cu|nv|nccl|_+cuda|_+nv", name):
            unversioned.add(name)
    with tempfile.TemporaryDirectory() as scratch:
        source, script = pathlib.Path(scratch, "stand_in.c"), pathlib.Path(scratch, "versions")
        for library in sorted(wanted):
            names = set().union(*versions[library].values())
            if library.startswith("libcudart"):
                names |= unversioned
            # 100 is cudaErrorNoDevice.
            functions = [f"long {name}(void) {{ return 100; }}\n" for name in sorted(names)]
            source.write_text("".join(functions) + "int stand_in;\n")
            nodes = [f"{v} {{ global: {' '.join(f'{n};' for n in sorted(ns))} }};\n" for v, ns in versions[library].items()]
            script.write_text("".join(nodes))
            command = ["cc", "-w", "-shared", "-fPIC", "-fno-builtin", f"-Wl,-soname,{library}"]
            command += [f"-Wl,--version-script={script}"] if nodes else []
            subprocess.run([*command, "-o", folder / library, source], check=True)


def main():
    folder = pathlib.Path(sys.argv[1])
    venv.create(folder, with_pip=True)
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    for library, installs in PACKAGES.items():
        print(f"installing {library}", flush=True)
        try:
            for packages in installs:
                command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages]
                subprocess.run(command, check=True)
            if library == "torch" and platform.system() == "Linux":
                site = output(python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])").strip()
                stand_ins(pathlib.Path(site, "torch", "lib"))
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"{library} could not be installed and is left out: {error}", flush=True)


if __name__ == "__main__":
    main()

"""Writes quantized.gguf with the `gguf` package 0.19.0 (llama.cpp, MIT) and numpy 2.4.6.

Each tensor `x` of random numbers has a neighbour `x.expected`, what the package's `dequantize` makes of it in
single precision. The package cannot quantise to the K types; their blocks are random bits with sensible scales.
"""

import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf import GGUFWriter, quants

rng = np.random.default_rng(7)
writer = GGUFWriter("quantized.gguf", "none")
writer.add_uint8("u8", 200)
writer.add_int8("i8", -100)
writer.add_uint16("u16", 60000)
writer.add_int16("i16", -30000)
writer.add_uint32("u32", 4000000000)
writer.add_int32("i32", -2000000000)
writer.add_uint64("u64", 2**64 - 1)
writer.add_int64("i64", -(2**63))
writer.add_float32("f32", 0.1)
writer.add_float64("f64", 0.1)
writer.add_bool("bool", True)
writer.add_string("string", "Grüße")
writer.add_array("strings", ["a", "", "Ġb"])
writer.add_array("integers", [1, -2, 3])
writer.add_array("floats", [0.5, -0.25])
writer.add_array("nested", [[1, 2], [3]])


def half(blocks, at, values):
    blocks[:, at : at + 2] = values.astype(np.float16).view(np.uint8).reshape(-1, 2)


for kind in [Type.F16, Type.BF16, Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.Q8_0]:
    data = quants.quantize(rng.standard_normal((3, 64), dtype=np.float32), kind)
    name = kind.name.lower()
    writer.add_tensor(name, data, raw_dtype=kind)
    writer.add_tensor(f"{name}.expected", quants.dequantize(data, kind))

for kind, size, scales in [(Type.Q4_K, 144, [0, 2]), (Type.Q5_K, 176, [0, 2]), (Type.Q6_K, 210, [208])]:
    blocks = rng.integers(0, 256, (2, size), dtype=np.uint8)
    for at in scales:
        half(blocks, at, rng.uniform(-0.01, 0.01, 2))
    name = kind.name.lower()
    writer.add_tensor(name, blocks, raw_dtype=kind)
    writer.add_tensor(f"{name}.expected", quants.dequantize(blocks, kind))

writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()

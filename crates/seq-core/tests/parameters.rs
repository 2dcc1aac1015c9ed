//! Parameters as files have them.

use burn::module::Param;
use burn::tensor::{Device, Tensor, TensorData};
use seq_core::checkpoint::{Checkpoint, CheckpointError, Parameters, Stored, write_safetensors};

struct Module {
    vectors: [Param<Tensor<1>>; 4],
    matrices: [Param<Tensor<2>>; 10],
}

/// Of width 4; the elements of the n-th vector or matrix are `10 n` and those after it, times `factor`.
fn module(factor: f32, device: &Device) -> Module {
    let values = |n: usize, count: usize| -> Vec<f32> {
        let values = 10 * n..10 * n + count;
        values.map(|value| value as f32 * factor).collect()
    };
    Module {
        vectors: [0, 1, 2, 3].map(|n| {
            let data = TensorData::new(values(n, 4), [4]);
            Param::from_tensor(Tensor::from_data(data, device))
        }),
        matrices: std::array::from_fn(|n| {
            let data = TensorData::new(values(n, 8), [2, 4]);
            Param::from_tensor(Tensor::from_data(data, device))
        }),
    }
}

impl Module {
    fn parameters(&mut self) -> Parameters<'_> {
        let [vector, vectors @ ..] = self.vectors.each_mut();
        let [a, b, c, d, e, f, g, h, i, j] = self.matrices.each_mut();
        let mut all = Parameters::new();
        all.push("vector", Stored::Vector(vector));
        all.push("vectors", Stored::Vectors(vectors, 2));
        all.push("matrix", Stored::Matrix(a));
        all.push("transposed", Stored::Transposed(b));
        all.push("taps", Stored::Taps(c));
        all.push("flat", Stored::Flat(d));
        all.push("matrices", Stored::Matrices([e, f, g], 1));
        let stacked = Stored::TransposedMatrices([h, i, j], 2);
        all.push("transposed_matrices", stacked);
        all
    }

    fn values(&self) -> Vec<TensorData> {
        let vectors = self.vectors.iter().map(|param| param.to_data());
        let matrices = self.matrices.iter().map(|param| param.to_data());
        vectors.chain(matrices).collect()
    }
}

#[test]
fn each_kind_lies_as_it_says_and_is_read_again() {
    let device = seq_core::device();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.safetensors");
    let mut saved = module(1.0, &device);
    let found: Vec<(String, TensorData)> = saved.parameters().data().collect();
    let expected = [
        TensorData::from([0f32, 1.0, 2.0, 3.0]),
        // Those of the first head, then those of the second.
        TensorData::from([
            10f32, 11.0, 20.0, 21.0, 30.0, 31.0, 12.0, 13.0, 22.0, 23.0, 32.0, 33.0,
        ]),
        TensorData::from([[0f32, 1.0, 2.0, 3.0], [4.0, 5.0, 6.0, 7.0]]),
        TensorData::from([[10f32, 14.0], [11.0, 15.0], [12.0, 16.0], [13.0, 17.0]]),
        TensorData::from([[[20f32, 21.0, 22.0, 23.0]], [[24.0, 25.0, 26.0, 27.0]]]),
        TensorData::from([30f32, 31.0, 32.0, 33.0, 34.0, 35.0, 36.0, 37.0]),
        TensorData::from([
            [
                40f32, 41.0, 42.0, 43.0, 50.0, 51.0, 52.0, 53.0, 60.0, 61.0, 62.0, 63.0,
            ],
            [
                44.0, 45.0, 46.0, 47.0, 54.0, 55.0, 56.0, 57.0, 64.0, 65.0, 66.0, 67.0,
            ],
        ]),
        TensorData::from([
            [70f32, 74.0],
            [71.0, 75.0],
            [80.0, 84.0],
            [81.0, 85.0],
            [90.0, 94.0],
            [91.0, 95.0],
            [72.0, 76.0],
            [73.0, 77.0],
            [82.0, 86.0],
            [83.0, 87.0],
            [92.0, 96.0],
            [93.0, 97.0],
        ]),
    ];
    assert_eq!(found.len(), expected.len());
    for ((name, found), expected) in found.iter().zip(expected) {
        assert_eq!(found, &expected, "{name}");
    }

    write_safetensors(&file, found).unwrap();
    let mut loaded = module(0.0, &device);
    let mut checkpoint = Checkpoint::read(&file).unwrap();
    loaded.parameters().take(&mut checkpoint, &device).unwrap();
    checkpoint.finish().unwrap();
    assert_eq!(loaded.values(), saved.values());
}

#[test]
fn what_is_not_there_is_named() {
    let device = seq_core::device();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.safetensors");
    let mut module = module(1.0, &device);
    let (before, tensors) = (module.values(), module.parameters().data());
    write_safetensors(&file, tensors.filter(|(name, _)| name != "vector")).unwrap();
    let mut checkpoint = Checkpoint::read(&file).unwrap();
    let error = module.parameters().take(&mut checkpoint, &device);
    let error = error.unwrap_err();
    let missing = matches!(&error, CheckpointError::MissingTensor { name, .. } if name == "vector");
    assert!(missing, "{error}");
    assert_eq!(module.values(), before);
}

//! The names of the reference code, `models/s4/s4d.py` of <https://github.com/state-spaces/s4>.

use std::path::Path;

use burn::module::Param;
use burn::nn::Linear;
use burn::tensor::{Tensor, TensorCreationOptions, TensorData};
use seq_core::checkpoint::{Checkpoint, CheckpointError, write_safetensors};

use super::layer::S4d;
use crate::Discretisation;

impl S4d {
    /// Reads the one `S4D` of a file, `.pt` or `.safetensors`, below whatever prefix it has there. A kernel
    /// that reads what comes after a step is there as `kernel.C_backward`, and without `output_linear` the
    /// features are not mixed. What a file cannot tell is as in the reference code: a zero-order hold.
    ///
    /// `options` is a `&Device`, or `(&device, dtype)` for a float type other than the device's default.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, holds no such layer or several, or the tensors do not make up one; every
    /// error names the file, and the tensor that is at fault.
    pub fn load_pytorch(
        path: impl AsRef<Path>,
        options: impl Into<TensorCreationOptions>,
    ) -> Result<Self, CheckpointError> {
        let mut checkpoint = Checkpoint::read(path)?;
        let prefix = checkpoint.find_prefix("kernel.C")?;
        Self::from_checkpoint(checkpoint.split_off(&prefix)?, options)
    }

    /// Takes a layer from a checkpoint that holds nothing else.
    ///
    /// # Errors
    ///
    /// When a tensor is missing, left over, or of a wrong shape or element type.
    pub fn from_checkpoint(
        mut checkpoint: Checkpoint,
        options: impl Into<TensorCreationOptions>,
    ) -> Result<Self, CheckpointError> {
        let options = options.into();
        let shape = checkpoint.shape("kernel.C").unwrap_or(&[]);
        let size = |axis: usize| shape.get(axis).copied().unwrap_or(1);
        let (d_model, pairs) = (size(0), size(1));
        let backward = checkpoint.shape("kernel.C_backward").is_some();
        let mixing = checkpoint.shape("output_linear.0.weight").is_some();

        let mut matrix = |name: &str| {
            let tensor = checkpoint.take(name, [d_model, pairs], options.clone())?;
            Ok(Param::from_tensor(tensor))
        };
        let (log_a_real, a_imag) = (matrix("kernel.log_A_real")?, matrix("kernel.A_imag")?);
        let mut complex = |name: &str| {
            let tensor = checkpoint.take(name, [d_model, pairs, 2], options.clone())?;
            Ok(Param::from_tensor(tensor))
        };
        let c = complex("kernel.C")?;
        let c_backward = match backward {
            true => Some(complex("kernel.C_backward")?),
            false => None,
        };
        let mut vector = |name: &str, width| {
            let tensor = checkpoint.take(name, [width], options.clone())?;
            Ok(Param::from_tensor(tensor))
        };
        let (log_dt, d) = (vector("kernel.log_dt", d_model)?, vector("D", d_model)?);
        let mixing = match mixing {
            true => {
                let bias = vector("output_linear.0.bias", 2 * d_model)?;
                let shape = [2 * d_model, d_model, 1];
                let weight: Tensor<3> =
                    checkpoint.take("output_linear.0.weight", shape, options.clone())?;
                let device = weight.device();
                let dtype = weight.dtype();
                // A view would be copied by every product.
                let weight = weight.squeeze_dim::<2>(2).transpose().into_data();
                Some(Linear {
                    weight: Param::from_tensor(Tensor::from_data(weight, (&device, dtype))),
                    bias: Some(bias),
                })
            }
            false => None,
        };
        checkpoint.finish()?;
        Ok(Self {
            log_dt,
            log_a_real,
            a_imag,
            c,
            c_backward,
            d,
            mixing,
            discretisation: Discretisation::Zoh,
            rate: 1.0,
        })
    }

    /// Saves the weights to a safetensors file under the names that [`load_pytorch`](Self::load_pytorch)
    /// reads.
    ///
    /// # Errors
    ///
    /// When the file cannot be written; one that was there before is then as it was.
    pub fn save_pytorch(&self, path: impl AsRef<Path>) -> Result<(), CheckpointError> {
        write_safetensors(path, self.state_dict())
    }

    /// The weights under the names that [`save_pytorch`](Self::save_pytorch) gives them.
    pub fn state_dict(&self) -> Vec<(String, TensorData)> {
        let mut all = vec![
            ("D", self.d.val().into_data()),
            ("kernel.log_dt", self.log_dt.val().into_data()),
            ("kernel.log_A_real", self.log_a_real.val().into_data()),
            ("kernel.A_imag", self.a_imag.val().into_data()),
            ("kernel.C", self.c.val().into_data()),
        ];
        let backward = self.c_backward.as_ref();
        all.extend(backward.map(|c| ("kernel.C_backward", c.val().into_data())));
        if let Some(map) = &self.mixing {
            let weight = map.weight.val().transpose().unsqueeze_dim::<3>(2);
            all.push(("output_linear.0.weight", weight.into_data()));
            let bias = map.bias.as_ref();
            all.extend(bias.map(|bias| ("output_linear.0.bias", bias.val().into_data())));
        }
        let all = all.into_iter();
        all.map(|(name, data)| (name.to_string(), data)).collect()
    }
}

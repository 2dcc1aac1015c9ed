use burn::tensor::Device;

use super::{Recurrent, RecurrentCell};
use crate::ConfigError;

/// The configuration of a [`Recurrent`] layer: what its cells are made from.
///
/// An architecture brings the methods without a body and gets its layers from the others.
pub trait RecurrentConfig {
    /// What the layer is made of.
    type Cell: RecurrentCell;

    /// The options that all recurrent layers have.
    fn options(&self) -> LayerOptions;

    /// A cell with fresh weights that reads inputs of width `d_input`; `top` in the last layer.
    fn fresh_cell(&self, d_input: usize, top: bool, device: &Device) -> Self::Cell;

    /// Checks the options, as a configuration that was read from a file may hold anything.
    ///
    /// # Errors
    ///
    /// The first option with a value that it cannot have.
    fn validate(&self) -> Result<(), ConfigError>;

    /// Makes the layer with fresh weights.
    ///
    /// # Panics
    ///
    /// When the options do not pass [`validate`](Self::validate).
    fn init(&self, device: &Device) -> Recurrent<Self::Cell> {
        check(self);
        let options = self.options();
        let places = options.places();
        let cells = places
            .map(|place| self.fresh_cell(place.d_input, place.top, device))
            .collect();
        Recurrent::new(cells, &options)
    }

    /// Makes a single cell with fresh weights, for loops written by hand; `num_layers`,
    /// `bidirectional`, `reverse` and `dropout` have no meaning for it.
    ///
    /// # Panics
    ///
    /// As [`init`](Self::init).
    fn init_cell(&self, device: &Device) -> Self::Cell {
        check(self);
        self.fresh_cell(self.options().d_input, true, device)
    }
}

/// # Panics
///
/// When an option has a value that it cannot have, naming it.
pub(super) fn check(config: &(impl RecurrentConfig + ?Sized)) {
    if let Err(error) = config.validate() {
        panic!("{error}");
    }
}

/// The options that all recurrent layers have.
///
/// ```
/// use seq_core::recurrent::LayerOptions;
///
/// let options = LayerOptions { bidirectional: true, reverse: true, ..LayerOptions::new(3, 4) };
/// assert_eq!(options.validate().unwrap_err().option, "reverse");
/// ```
#[derive(Debug, Clone, Copy)]
pub struct LayerOptions {
    /// The width of one input step.
    pub d_input: usize,
    /// The width of what one direction of a layer hands to the next layer.
    pub d_between: usize,
    /// How many layers stand over one another.
    pub num_layers: usize,
    /// Whether every layer reads both ways.
    pub bidirectional: bool,
    /// Whether the one direction runs from the end of the sequence.
    pub reverse: bool,
    /// The probability of dropout between two layers.
    pub dropout: f64,
}

/// Where in a layer a cell is.
pub(super) struct Place {
    pub d_input: usize,
    /// Whether it is in the last layer.
    pub top: bool,
    /// What PyTorch appends to the names of its weights.
    pub suffix: String,
}

impl LayerOptions {
    /// One layer, in one direction, forwards.
    pub fn new(d_input: usize, d_between: usize) -> Self {
        Self {
            d_input,
            d_between,
            num_layers: 1,
            bidirectional: false,
            reverse: false,
            dropout: 0.0,
        }
    }

    /// Checks these options.
    ///
    /// # Errors
    ///
    /// When there is no input or no layer, `dropout` is not in `[0, 1)`, or both `bidirectional` and
    /// `reverse` are set.
    pub fn validate(&self) -> Result<(), ConfigError> {
        ConfigError::sizes([("d_input", self.d_input), ("num_layers", self.num_layers)])?;
        ConfigError::probabilities([("dropout", self.dropout)])?;
        ConfigError::unless(
            !(self.bidirectional && self.reverse),
            "reverse",
            "off, as a bidirectional layer already reads in reverse",
            true,
        )
    }

    /// The places of all cells, in PyTorch's order.
    pub(super) fn places(self) -> impl Iterator<Item = Place> {
        let directions = if self.bidirectional { 2 } else { 1 };
        (0..self.num_layers.saturating_mul(directions)).map(move |row| {
            let (layer, direction) = (row / directions, row % directions);
            let direction = ["", "_reverse"][direction];
            Place {
                d_input: match layer {
                    0 => self.d_input,
                    _ => directions * self.d_between,
                },
                top: layer + 1 == self.num_layers,
                suffix: format!("_l{layer}{direction}"),
            }
        })
    }
}

/// Gives a configuration `init` and `init_cell` as methods of its own, which need no import, and
/// `layer_options`, the [`LayerOptions`](crate::recurrent::LayerOptions) from its fields of the same
/// names.
#[macro_export]
macro_rules! recurrent_config {
    ($config:ty, $layer:ty, $cell:ty) => {
        impl $config {
            /// Makes the layer with fresh weights.
            ///
            /// # Panics
            ///
            /// When the options do not pass
            /// [`validate`]($crate::recurrent::RecurrentConfig::validate).
            pub fn init(&self, device: &::burn::tensor::Device) -> $layer {
                $crate::recurrent::RecurrentConfig::init(self, device)
            }

            /// Makes a single cell with fresh weights, for loops written by hand; `num_layers`,
            /// `bidirectional`, `reverse` and `dropout` have no meaning for it.
            ///
            /// # Panics
            ///
            /// As [`init`](Self::init).
            pub fn init_cell(&self, device: &::burn::tensor::Device) -> $cell {
                $crate::recurrent::RecurrentConfig::init_cell(self, device)
            }

            fn layer_options(&self, d_between: usize) -> $crate::recurrent::LayerOptions {
                $crate::recurrent::LayerOptions {
                    d_input: self.d_input,
                    d_between,
                    num_layers: self.num_layers,
                    bidirectional: self.bidirectional,
                    reverse: self.reverse,
                    dropout: self.dropout,
                }
            }
        }
    };
}

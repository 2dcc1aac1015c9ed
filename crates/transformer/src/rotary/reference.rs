//! The rotation in plain tensor operations.

use burn::tensor::Tensor;

use super::Turn;

/// `x` `[batch, time, heads, d_head]` turned.
pub(super) fn run(x: Tensor<4>, turn: &Turn<'_>) -> Tensor<4> {
    let [batch, time, heads, d_head] = x.dims();
    let (d_rotary, pairs) = (turn.d_rotary, turn.d_rotary / 2);
    let table = turn.rows.stretches(&turn.starts, time, d_rotary);
    // [1 or batch, time, 1, d_rotary]
    let table = Tensor::<3>::from_data(table, (&x.device(), x.dtype())).unsqueeze_dim::<4>(2);
    let cos = table.clone().narrow(3, 0, pairs);
    let sin = table.narrow(3, pairs, pairs);
    let sin = if turn.back { -sin } else { sin };

    // Both [batch, time, heads, pairs].
    let (first, second) = match turn.interleaved {
        true => {
            let x = x.clone().narrow(3, 0, d_rotary);
            let x = x.reshape([batch, time, heads, pairs, 2]);
            let half = |i| x.clone().narrow(4, i, 1).squeeze_dim(4);
            (half(0), half(1))
        }
        false => (
            x.clone().narrow(3, 0, pairs),
            x.clone().narrow(3, pairs, pairs),
        ),
    };
    let turned = [
        first.clone() * cos.clone() - second.clone() * sin.clone(),
        first * sin + second * cos,
    ];
    let mut parts = match turn.interleaved {
        true => {
            let turned: Tensor<5> = Tensor::stack(turned.into(), 4);
            vec![turned.reshape([batch, time, heads, d_rotary])]
        }
        false => turned.into(),
    };
    if d_rotary < d_head {
        parts.push(x.narrow(3, d_rotary, d_head - d_rotary));
    }
    Tensor::cat(parts, 3)
}

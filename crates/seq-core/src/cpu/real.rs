//! The float type of a kernel: one body of SIMD code for `f32` and `f64`.

use std::fmt::{Debug, Display};
use std::ops::{Add, AddAssign, Div, DivAssign, Mul, MulAssign, Neg, Sub, SubAssign};

use bytemuck::Pod;
use pulp::MemMask;
pub use pulp::{Arch, Simd, WithSimd};

use super::math::lanes;

/// The vector minimum and maximum of x86 give the second operand where one is NaN; others differ.
const X86_MIN_MAX: bool = cfg!(any(target_arch = "x86", target_arch = "x86_64"));

/// A float type that the CPU kernels run in: `f32` or `f64`.
///
/// A kernel is written once, over `R: Real` and `S: Simd`, as the body of a [`WithSimd`], and
/// [`Arch::dispatch`] runs it with the widest instructions that the machine has. All methods are
/// lanewise unless they say otherwise and inline into the kernel; a helper between the two must be
/// `#[inline(always)]` as well, or it is compiled without those instructions. The `v` of
/// [`vadd`](Real::vadd) and its four siblings keeps them apart from the operators on single values.
///
/// The vector maths ([`exp`](Real::exp) and those after it) holds a few ulp over the whole range;
/// the measured bounds are stated in [`math`](super::math).
///
/// ```
/// use seq_core::cpu::{Arch, Real, Simd, WithSimd};
///
/// /// The sum of `xs`.
/// struct Sum<'a, R>(&'a [R]);
///
/// impl<R: Real> WithSimd for Sum<'_, R> {
///     type Output = R;
///
///     #[inline(always)]
///     fn with_simd<S: Simd>(self, s: S) -> R {
///         let mut sum = R::splat(s, R::ZERO);
///         for chunk in self.0.chunks(R::lanes::<S>()) {
///             // SAFETY: reads the elements of the chunk, at most one vector of them.
///             let x = unsafe { R::load_first(s, chunk.as_ptr(), chunk.len()) };
///             sum = R::vadd(s, sum, x);
///         }
///         R::reduce_sum(s, sum)
///     }
/// }
///
/// assert_eq!(Arch::new().dispatch(Sum(&[1.0_f32; 21])), 21.0);
/// ```
pub trait Real:
    lanes::Constants
    + Pod
    + Default
    + PartialOrd
    + Debug
    + Display
    + Send
    + Sync
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + SubAssign
    + MulAssign
    + DivAssign
{
    /// One SIMD register of this type.
    type V<S: Simd>: Pod + Debug + Send + Sync;

    /// 0
    const ZERO: Self;
    /// 1
    const ONE: Self;

    /// The nearest value of this type.
    fn from_f64(v: f64) -> Self;
    /// The same value as an `f64`; exact.
    fn to_f64(self) -> f64;

    /// How many elements a register holds: 16 `f32` or 8 `f64` with AVX-512, 8 or 4 with AVX2, else 1
    /// or what the machine has.
    #[inline(always)]
    fn lanes<S: Simd>() -> usize {
        size_of::<Self::V<S>>() / size_of::<Self>()
    }

    /// All lanes `v`.
    fn splat<S: Simd>(s: S, v: Self) -> Self::V<S>;

    /// Reads a whole register.
    ///
    /// # Safety
    /// `p` must be readable for [`lanes`](Real::lanes) elements. It need not be aligned to the register.
    #[inline(always)]
    unsafe fn load<S: Simd>(_s: S, p: *const Self) -> Self::V<S> {
        // SAFETY: readable by the caller's promise, and every bit pattern is a value of a Pod type.
        unsafe { p.cast::<Self::V<S>>().read_unaligned() }
    }

    /// Writes a whole register.
    ///
    /// # Safety
    /// `p` must be writable for [`lanes`](Real::lanes) elements. It need not be aligned to the register.
    #[inline(always)]
    unsafe fn store<S: Simd>(_s: S, p: *mut Self, v: Self::V<S>) {
        // SAFETY: writable by the caller's promise.
        unsafe { p.cast::<Self::V<S>>().write_unaligned(v) }
    }

    /// Reads the first `n` lanes; the others are 0 and the memory beyond is not touched.
    ///
    /// # Safety
    /// `p` must be readable for `n` elements, `n` at most [`lanes`](Real::lanes).
    unsafe fn load_first<S: Simd>(s: S, p: *const Self, n: usize) -> Self::V<S>;

    /// Writes the first `n` lanes; the memory beyond is not touched.
    ///
    /// # Safety
    /// `p` must be writable for `n` elements, `n` at most [`lanes`](Real::lanes).
    unsafe fn store_first<S: Simd>(s: S, p: *mut Self, n: usize, v: Self::V<S>);

    /// a + b
    fn vadd<S: Simd>(s: S, a: Self::V<S>, b: Self::V<S>) -> Self::V<S>;
    /// a - b
    fn vsub<S: Simd>(s: S, a: Self::V<S>, b: Self::V<S>) -> Self::V<S>;
    /// a b
    fn vmul<S: Simd>(s: S, a: Self::V<S>, b: Self::V<S>) -> Self::V<S>;
    /// a / b
    fn vdiv<S: Simd>(s: S, a: Self::V<S>, b: Self::V<S>) -> Self::V<S>;
    /// a b + c, with one rounding where the machine has the instruction and two where it has not.
    fn mul_add<S: Simd>(s: S, a: Self::V<S>, b: Self::V<S>, c: Self::V<S>) -> Self::V<S>;
    /// c - a b, rounded as in [`mul_add`](Real::mul_add).
    fn neg_mul_add<S: Simd>(s: S, a: Self::V<S>, b: Self::V<S>, c: Self::V<S>) -> Self::V<S>;
    /// -a
    fn vneg<S: Simd>(s: S, a: Self::V<S>) -> Self::V<S>;
    /// |a|
    fn abs<S: Simd>(s: S, a: Self::V<S>) -> Self::V<S>;
    /// The magnitude of `a` with the sign of `b`.
    fn copysign<S: Simd>(s: S, a: Self::V<S>, b: Self::V<S>) -> Self::V<S>;

    /// `if a < b { a } else { b }`: where one is NaN, the result is `b`.
    fn min<S: Simd>(s: S, a: Self::V<S>, b: Self::V<S>) -> Self::V<S>;
    /// `if a > b { a } else { b }`: where one is NaN, the result is `b`.
    fn max<S: Simd>(s: S, a: Self::V<S>, b: Self::V<S>) -> Self::V<S>;

    /// `if a < b { if_true } else { if_false }`
    fn select_lt<S: Simd>(
        s: S,
        a: Self::V<S>,
        b: Self::V<S>,
        if_true: Self::V<S>,
        if_false: Self::V<S>,
    ) -> Self::V<S>;
    /// `if a <= b { if_true } else { if_false }`
    fn select_le<S: Simd>(
        s: S,
        a: Self::V<S>,
        b: Self::V<S>,
        if_true: Self::V<S>,
        if_false: Self::V<S>,
    ) -> Self::V<S>;

    /// The sum of all lanes, in an order that depends on the machine.
    fn reduce_sum<S: Simd>(s: S, a: Self::V<S>) -> Self;
    /// The largest lane; which one is unspecified where a lane is NaN.
    fn reduce_max<S: Simd>(s: S, a: Self::V<S>) -> Self;

    /// The integer in the low bits of each lane, moved to the bits of the exponent.
    fn exponent_from_low_bits<S: Simd>(s: S, a: Self::V<S>) -> Self::V<S>;
    /// The difference of the lanes' bit patterns, read as integers.
    fn sub_bits<S: Simd>(s: S, a: Self::V<S>, b: Self::V<S>) -> Self::V<S>;

    /// e^x
    #[inline(always)]
    fn exp<S: Simd>(s: S, x: Self::V<S>) -> Self::V<S> {
        lanes::exp::<Self, S>(s, x)
    }

    /// 2^x of an x that is not above 0, or not by much, as of a softmax: half the work of [`exp`](Real::exp), but 0
    /// where that is less than the smallest normal number by more than a factor of sqrt 2. Within 1.25 ulp.
    #[inline(always)]
    fn exp2_flushed<S: Simd, const N: usize>(s: S, x: [Self::V<S>; N]) -> [Self::V<S>; N] {
        lanes::exp2_flushed::<Self, S, N>(s, x)
    }

    /// tanh x
    #[inline(always)]
    fn tanh<S: Simd>(s: S, x: Self::V<S>) -> Self::V<S> {
        lanes::tanh::<Self, S>(s, x)
    }

    /// 1 / (1 + e^-x)
    #[inline(always)]
    fn sigmoid<S: Simd>(s: S, x: Self::V<S>) -> Self::V<S> {
        lanes::sigmoid::<Self, S>(s, x)
    }

    /// ln(1 + e^x)
    #[inline(always)]
    fn softplus<S: Simd>(s: S, x: Self::V<S>) -> Self::V<S> {
        lanes::softplus::<Self, S>(s, x)
    }

    /// x / (1 + e^-x)
    #[inline(always)]
    fn silu<S: Simd>(s: S, x: Self::V<S>) -> Self::V<S> {
        lanes::silu::<Self, S>(s, x)
    }

    /// x times the normal distribution function of x
    #[inline(always)]
    fn gelu<S: Simd>(s: S, x: Self::V<S>) -> Self::V<S> {
        lanes::gelu::<Self, S>(s, x)
    }

    /// [`gelu`](Real::gelu) and its derivative
    #[inline(always)]
    fn gelu_with_slope<S: Simd>(s: S, x: Self::V<S>) -> (Self::V<S>, Self::V<S>) {
        lanes::gelu_with_slope::<Self, S>(s, x)
    }
}

/// Forwards to the pulp methods of one type; these differ in their suffix only.
macro_rules! impl_real {
    (
        $real:ident, $v:ident, $index:ident,
        binary { $($binary:ident = $pulp_binary:ident),* }
        ternary { $($ternary:ident = $pulp_ternary:ident),* }
        reduce { $($reduce:ident = $pulp_reduce:ident),* }
        select { $($select:ident = $pulp_compare:ident),* }
        bits { $to_bits:ident, $from_bits:ident, $mul_bits:ident, $sub_bits:ident, $splat_bits:ident }
        $splat:ident, $blend:ident, $less:ident, $greater:ident, $min:ident, $max:ident,
        $mask:ident, $mask_load:ident, $mask_store:ident, $and:ident, $or:ident, $xor:ident
    ) => {
        impl Real for $real {
            type V<S: Simd> = S::$v;

            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;

            #[inline(always)]
            fn from_f64(v: f64) -> Self {
                v as Self
            }

            #[inline(always)]
            fn to_f64(self) -> f64 {
                self.into()
            }

            #[inline(always)]
            fn splat<S: Simd>(s: S, v: Self) -> S::$v {
                s.$splat(v)
            }

            #[inline(always)]
            unsafe fn load_first<S: Simd>(s: S, p: *const Self, n: usize) -> S::$v {
                debug_assert!(n <= Self::lanes::<S>());
                // Only the mask of pulp's pair of a mask and a jump into a table of loads.
                let mask = MemMask::new(s.$mask(0, n as $index).mask());
                // SAFETY: the mask enables the first n lanes, readable by the caller's promise.
                unsafe { s.$mask_load(mask, p) }
            }

            #[inline(always)]
            unsafe fn store_first<S: Simd>(s: S, p: *mut Self, n: usize, v: S::$v) {
                debug_assert!(n <= Self::lanes::<S>());
                let mask = MemMask::new(s.$mask(0, n as $index).mask());
                // SAFETY: the mask enables the first n lanes, writable by the caller's promise.
                unsafe { s.$mask_store(mask, p, v) }
            }

            $(
                #[inline(always)]
                fn $binary<S: Simd>(s: S, a: S::$v, b: S::$v) -> S::$v {
                    s.$pulp_binary(a, b)
                }
            )*
            $(
                #[inline(always)]
                fn $ternary<S: Simd>(s: S, a: S::$v, b: S::$v, c: S::$v) -> S::$v {
                    s.$pulp_ternary(a, b, c)
                }
            )*
            $(
                #[inline(always)]
                fn $reduce<S: Simd>(s: S, a: S::$v) -> Self {
                    s.$pulp_reduce(a)
                }
            )*
            $(
                #[inline(always)]
                fn $select<S: Simd>(
                    s: S,
                    a: S::$v,
                    b: S::$v,
                    if_true: S::$v,
                    if_false: S::$v,
                ) -> S::$v {
                    s.$blend(s.$pulp_compare(a, b), if_true, if_false)
                }
            )*

            // Not pulp's own negation and absolute value: those become calls of functions that were
            // compiled without AVX-512.
            #[inline(always)]
            fn vneg<S: Simd>(s: S, a: S::$v) -> S::$v {
                s.$xor(a, s.$splat(-0.0))
            }

            #[inline(always)]
            fn abs<S: Simd>(s: S, a: S::$v) -> S::$v {
                s.$and(a, s.$splat(Self::from_bits(!Self::to_bits(-0.0))))
            }

            #[inline(always)]
            fn copysign<S: Simd>(s: S, a: S::$v, b: S::$v) -> S::$v {
                let sign = s.$and(b, s.$splat(-0.0));
                s.$or(<Self as Real>::abs(s, a), sign)
            }

            #[inline(always)]
            fn min<S: Simd>(s: S, a: S::$v, b: S::$v) -> S::$v {
                if X86_MIN_MAX && !S::IS_SCALAR {
                    s.$min(a, b)
                } else {
                    s.$blend(s.$less(a, b), a, b)
                }
            }

            #[inline(always)]
            fn max<S: Simd>(s: S, a: S::$v, b: S::$v) -> S::$v {
                if X86_MIN_MAX && !S::IS_SCALAR {
                    s.$max(a, b)
                } else {
                    s.$blend(s.$greater(a, b), a, b)
                }
            }

            #[inline(always)]
            fn exponent_from_low_bits<S: Simd>(s: S, a: S::$v) -> S::$v {
                // A product with a constant power of two compiles to a shift; pulp has none of 64 bits.
                let one_exponent = s.$splat_bits(1 << (Self::MANTISSA_DIGITS - 1));
                s.$from_bits(s.$mul_bits(s.$to_bits(a), one_exponent))
            }

            #[inline(always)]
            fn sub_bits<S: Simd>(s: S, a: S::$v, b: S::$v) -> S::$v {
                s.$from_bits(s.$sub_bits(s.$to_bits(a), s.$to_bits(b)))
            }
        }
    };
}

impl_real! {
    f32, f32s, u32,
    binary { vadd = add_f32s, vsub = sub_f32s, vmul = mul_f32s, vdiv = div_f32s }
    ternary { mul_add = mul_add_e_f32s, neg_mul_add = negate_mul_add_e_f32s }
    reduce { reduce_sum = reduce_sum_f32s, reduce_max = reduce_max_f32s }
    select { select_lt = less_than_f32s, select_le = less_than_or_equal_f32s }
    bits { transmute_u32s_f32s, transmute_f32s_u32s, mul_u32s, sub_u32s, splat_u32s }
    splat_f32s, select_f32s, less_than_f32s, greater_than_f32s, min_f32s, max_f32s,
    mask_between_m32s, mask_load_ptr_f32s, mask_store_ptr_f32s, and_f32s, or_f32s, xor_f32s
}

impl_real! {
    f64, f64s, u64,
    binary { vadd = add_f64s, vsub = sub_f64s, vmul = mul_f64s, vdiv = div_f64s }
    ternary { mul_add = mul_add_e_f64s, neg_mul_add = negate_mul_add_e_f64s }
    reduce { reduce_sum = reduce_sum_f64s, reduce_max = reduce_max_f64s }
    select { select_lt = less_than_f64s, select_le = less_than_or_equal_f64s }
    bits { transmute_u64s_f64s, transmute_f64s_u64s, mul_u64s, sub_u64s, splat_u64s }
    splat_f64s, select_f64s, less_than_f64s, greater_than_f64s, min_f64s, max_f64s,
    mask_between_m64s, mask_load_ptr_f64s, mask_store_ptr_f64s, and_f64s, or_f64s, xor_f64s
}

#[cfg(test)]
pub(crate) mod tests;

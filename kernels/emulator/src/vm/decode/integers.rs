//! Rust's integers as lanes of registers: 16-bit ones live zero-extended in registers of 32 bits.

use crate::vm::registers::Word;

/// An integer type of PTX's arithmetic.
pub(super) trait Integer: Copy + Ord + Send + Sync + 'static {
    type Lane: Word;
    const BITS: u32;
    fn from_lane(lane: Self::Lane) -> Self;
    fn to_lane(self) -> Self::Lane;
    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    /// Upper half of the product.
    fn mul_high(self, other: Self) -> Self;
    /// Division by zero gives all ones, as the cards do.
    fn div(self, other: Self) -> Self;
    fn rem(self, other: Self) -> Self;
    /// Clamped instead of wrapped.
    fn add_saturated(self, other: Self) -> Self;
    fn sub_saturated(self, other: Self) -> Self;
    /// By `count`, of which any size is meant: too large a one shifts everything out.
    fn shift_right(self, count: u32) -> Self;
    fn negate(self) -> Self;
    fn absolute(self) -> Self;
    fn distance(self, other: Self) -> Self;
    fn widen(self) -> i128;
}

macro_rules! integer {
    ($($name:ident $lane:ident $unsigned:ident $double:ident),*) => {$(
        impl Integer for $name {
            type Lane = $lane;
            const BITS: u32 = $name::BITS;
            #[inline]
            fn from_lane(lane: $lane) -> Self { lane as $name }
            #[inline]
            fn to_lane(self) -> $lane { $lane::from(self as $unsigned) }
            #[inline]
            fn add(self, other: Self) -> Self { self.wrapping_add(other) }
            #[inline]
            fn sub(self, other: Self) -> Self { self.wrapping_sub(other) }
            #[inline]
            fn mul(self, other: Self) -> Self { self.wrapping_mul(other) }
            #[inline]
            fn mul_high(self, other: Self) -> Self {
                ((self as $double * other as $double) >> $name::BITS) as $name
            }
            #[inline]
            fn div(self, other: Self) -> Self {
                if other == 0 { $unsigned::MAX as $name } else { self.wrapping_div(other) }
            }
            #[inline]
            fn rem(self, other: Self) -> Self {
                if other == 0 { self } else { self.wrapping_rem(other) }
            }
            #[inline]
            fn add_saturated(self, other: Self) -> Self { self.saturating_add(other) }
            #[inline]
            fn sub_saturated(self, other: Self) -> Self { self.saturating_sub(other) }
            #[inline]
            fn shift_right(self, count: u32) -> Self {
                let all = if $name::MIN == 0 { 0 } else { self >> ($name::BITS - 1) };
                if count < $name::BITS { self >> count } else { all }
            }
            #[inline]
            fn negate(self) -> Self { (0 as $name).wrapping_sub(self) }
            #[inline]
            fn absolute(self) -> Self { if self < 0 as $name { self.negate() } else { self } }
            #[inline]
            fn distance(self, other: Self) -> Self { self.abs_diff(other) as $name }
            #[inline]
            fn widen(self) -> i128 { i128::from(self) }
        }
    )*};
}

integer!(
    u16 u32 u16 u32, i16 u32 u16 i32, u32 u32 u32 u64, i32 u32 u32 i64, u64 u64 u64 u128, i64 u64 u64 i128
);

/// Calls `$call::<T>($arguments)` with the Rust type of a PTX type; `None` for types that are no integers.
macro_rules! with_integer {
    ($kind:expr, $self:ident . $call:ident ( $($argument:expr),* )) => {
        match $kind {
            Type::U16 | Type::B16 => Some($self.$call::<u16>($($argument),*)),
            Type::S16 => Some($self.$call::<i16>($($argument),*)),
            Type::U32 | Type::B32 => Some($self.$call::<u32>($($argument),*)),
            Type::S32 => Some($self.$call::<i32>($($argument),*)),
            Type::U64 | Type::B64 => Some($self.$call::<u64>($($argument),*)),
            Type::S64 => Some($self.$call::<i64>($($argument),*)),
            _ => None,
        }
    };
}
pub(super) use with_integer;

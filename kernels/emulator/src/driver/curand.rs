//! `libcurand`: uniform and normal numbers.
//!
//! The numbers are not those of a card: what a seed gives is a convention of each generator, and only their distribution
//! and that they repeat is promised here. Value `i` of a generator is splitmix64 of the seed and `i`.

use std::f64::consts::TAU;
use std::sync::{Arc, LazyLock, Mutex};

use super::device::in_context;
use super::ffi::{Out, api};
use super::graph::Node;
use super::handles::{Handles, lock};
use super::status::{self, Error, INVALID_VALUE, Outcome};
use super::stream::submit;

#[derive(Debug, Clone, Copy, Default)]
struct State {
    seed: u64,
    /// Numbers drawn so far.
    drawn: u64,
    stream: usize,
}

static GENERATORS: LazyLock<Handles<Mutex<State>>> =
    LazyLock::new(|| Handles::new("generator", 0x9000_0000));

/// As [`status::answer`], with the codes of `curandStatus_t`.
fn answer(call: &str, body: impl FnOnce() -> Outcome) -> u32 {
    match status::answer(call, body) {
        status::SUCCESS => 0,
        status::INVALID_HANDLE | status::INVALID_CONTEXT | status::NOT_INITIALIZED => 101,
        status::NOT_SUPPORTED => 103,
        INVALID_VALUE => 105,
        _ => 201,
    }
}

/// 64 random bits: one step of splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators).
fn bits(seed: u64, index: u64) -> u64 {
    let z = mix(seed).wrapping_add(index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    mix(z)
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Above 0, up to and with 1, in steps of 2^-24 or 2^-53.
fn uniform(bits: u64, precision: u32) -> f64 {
    ((bits >> (64 - precision)) + 1) as f64 / (1u64 << precision) as f64
}

/// One of a pair of normal numbers (Box and Muller): pairs are even and odd indices.
fn normal(seed: u64, index: u64) -> f64 {
    let pair = index & !1;
    let radius = (-2.0 * uniform(bits(seed, pair), 53).ln()).sqrt();
    let angle = TAU * uniform(bits(seed, pair + 1), 53);
    radius
        * if index == pair {
            angle.cos()
        } else {
            angle.sin()
        }
}

/// Draws `count` numbers to `address`, each as `N` bytes by `value` of seed and index.
fn draw<const N: usize>(
    generator: usize,
    address: u64,
    count: usize,
    value: impl Fn(u64, u64) -> [u8; N] + Send + Sync + 'static,
) -> Outcome {
    let (device, generator) = (in_context()?, GENERATORS.get(generator)?);
    let state = {
        let mut state = lock(&generator);
        let before = *state;
        state.drawn += (count as u64).next_multiple_of(2);
        before
    };
    submit(
        device,
        state.stream,
        Node::new(move |device| {
            let bytes: Vec<u8> = (0..count as u64)
                .flat_map(|i| value(state.seed, state.drawn + i))
                .collect();
            Ok(device.memory.write(address, &bytes)?)
        }),
    )
}

/// Normal numbers come in pairs, as on a card.
fn even(count: usize) -> Outcome {
    match count.is_multiple_of(2) {
        true => Ok(()),
        false => Err(Error::new(
            INVALID_VALUE,
            format!("{count} normal numbers: the count must be even"),
        )),
    }
}

api! { _table, answer;
    fn curandCreateGenerator(generator: Out<usize>, _kind: u32) {
        in_context()?;
        generator.set(GENERATORS.add(Arc::default()))
    }

    fn curandDestroyGenerator(generator: usize) {
        GENERATORS.remove(generator).map(|_| ())
    }

    fn curandSetPseudoRandomGeneratorSeed(generator: usize, seed: u64) {
        let generator = GENERATORS.get(generator)?;
        let mut state = lock(&generator);
        (state.seed, state.drawn) = (seed, 0);
        Ok(())
    }

    fn curandSetGeneratorOffset(generator: usize, offset: u64) {
        lock(&*GENERATORS.get(generator)?).drawn = offset;
        Ok(())
    }

    fn curandSetStream(generator: usize, stream: usize) {
        lock(&*GENERATORS.get(generator)?).stream = stream;
        Ok(())
    }

    fn curandGenerate(generator: usize, address: u64, count: usize) {
        draw(generator, address, count, |seed, i| ((bits(seed, i) >> 32) as u32).to_le_bytes())
    }

    fn curandGenerateLongLong(generator: usize, address: u64, count: usize) {
        draw(generator, address, count, |seed, i| bits(seed, i).to_le_bytes())
    }

    fn curandGenerateUniform(generator: usize, address: u64, count: usize) {
        draw(generator, address, count, |seed, i| (uniform(bits(seed, i), 24) as f32).to_le_bytes())
    }

    fn curandGenerateUniformDouble(generator: usize, address: u64, count: usize) {
        draw(generator, address, count, |seed, i| uniform(bits(seed, i), 53).to_le_bytes())
    }

    fn curandGenerateNormal(generator: usize, address: u64, count: usize, mean: f32, deviation: f32) {
        even(count)?;
        let (mean, deviation) = (f64::from(mean), f64::from(deviation));
        draw(generator, address, count, move |seed, i| ((mean + deviation * normal(seed, i)) as f32).to_le_bytes())
    }

    fn curandGenerateNormalDouble(generator: usize, address: u64, count: usize, mean: f64, deviation: f64) {
        even(count)?;
        draw(generator, address, count, move |seed, i| (mean + deviation * normal(seed, i)).to_le_bytes())
    }

    fn curandGenerateLogNormal() {
        Err(Error::unsupported("curandGenerateLogNormal"))
    }

    fn curandGenerateLogNormalDouble() {
        Err(Error::unsupported("curandGenerateLogNormalDouble"))
    }

    fn curandGeneratePoisson() {
        Err(Error::unsupported("curandGeneratePoisson"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUNT: u64 = 200_000;

    /// Mean and variance within five standard errors of what the distribution has.
    fn check(values: impl Iterator<Item = f64> + Clone, mean: f64, variance: f64, fourth: f64) {
        let n = COUNT as f64;
        let found = values.clone().sum::<f64>() / n;
        assert!(
            (found - mean).abs() < 5.0 * (variance / n).sqrt(),
            "mean {found}"
        );
        let spread = values.map(|value| (value - mean).powi(2)).sum::<f64>() / n;
        let error = ((fourth - variance * variance) / n).sqrt();
        assert!((spread - variance).abs() < 5.0 * error, "variance {spread}");
    }

    #[test]
    fn moments_are_those_of_the_distributions() {
        for seed in [0, 1, 299_792_458, u64::MAX] {
            check(
                (0..COUNT).map(|i| uniform(bits(seed, i), 24)),
                0.5,
                1.0 / 12.0,
                1.0 / 80.0,
            );
            check((0..COUNT).map(|i| normal(seed, i)), 0.0, 1.0, 3.0);
            let inside =
                (0..COUNT).filter(|i| normal(seed, *i).abs() < 1.0).count() as f64 / COUNT as f64;
            assert!(
                (inside - 0.682_689).abs() < 0.006,
                "{inside} within one deviation"
            );
        }
    }

    #[test]
    fn neighbours_pairs_and_seeds_are_not_correlated() {
        let n = COUNT as f64;
        for (a, b) in [((7, 0), (7, 1)), ((7, 0), (7, 2)), ((7, 0), (8, 0))] {
            let product = |i| normal(a.0, i + a.1) * normal(b.0, i + b.1);
            let correlation = (0..COUNT).map(product).sum::<f64>() / n;
            assert!(
                correlation.abs() < 5.0 / n.sqrt(),
                "{a:?} {b:?}: {correlation}"
            );
        }
    }

    #[test]
    fn uniform_numbers_are_above_zero_and_reach_one() {
        assert_eq!(uniform(0, 24), 1.0 / f64::from(1 << 24));
        assert_eq!(uniform(u64::MAX, 24), 1.0);
        assert_eq!(uniform(u64::MAX, 53), 1.0);
    }
}

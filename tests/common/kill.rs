//! SIGKILL at random moments. `KILL_SEED=N` repeats those of a failure.

use std::process::Command;
use std::time::{Duration, SystemTime};

use qwen_nvfp4::numerics::splitmix::{STEP, splitmix64};

/// Random moments from a seed that can be given again.
pub struct Moments {
    pub seed: u64,
    state: u64,
}

impl Moments {
    pub fn new() -> Self {
        let given = std::env::var("KILL_SEED").ok().map(|s| s.parse().unwrap());
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap();
        let seed = given.unwrap_or(now.as_nanos() as u64);
        Self { seed, state: seed }
    }

    /// A moment of `whole`.
    pub fn next(&mut self, whole: Duration) -> Duration {
        let chance = splitmix64(self.state) as f64 / u64::MAX as f64;
        self.state = self.state.wrapping_add(STEP);
        whole.mul_f64(chance)
    }
}

/// Starts `command`, which goes on where it was, and kills it, until it comes to its end: at least once, at most twenty
/// times. `whole` is what it takes undisturbed. Returns the seed, for messages.
pub fn until_done(whole: Duration, command: impl Fn() -> Command) -> u64 {
    let mut moments = Moments::new();
    let mut kills = 0;
    while kills < 20 {
        let mut child = command().spawn().unwrap();
        // The first one early enough to meet it at work, whatever the machine does meanwhile.
        let most = if kills == 0 { 0.4 } else { 0.7 };
        std::thread::sleep(moments.next(whole.mul_f64(most)));
        match child.try_wait().unwrap() {
            Some(status) => {
                assert!(status.success(), "seed {}", moments.seed);
                assert!(kills >= 1, "seed {}: it was never killed", moments.seed);
                println!("{kills} kills, seed {}", moments.seed);
                return moments.seed;
            }
            None => child.kill().unwrap(),
        }
        child.wait().unwrap();
        kills += 1;
    }
    assert!(command().status().unwrap().success());
    println!("{kills} kills, seed {}", moments.seed);
    moments.seed
}

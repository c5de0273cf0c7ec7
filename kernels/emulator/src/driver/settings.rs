//! What tests may choose. Each thread has its own settings, so that tests that run beside each other do not meet.
//!
//! | key | environment | values |
//! |---|---|---|
//! | `card` | `PTX_EMULATOR_CARD` | `rtx5090` (default), `rtx4090`, `h100`, `a100`, `b200` |
//! | `seed` | `PTX_EMULATOR_SEED` | order in which warps run |
//! | `uninitialised`, `uninitialised_shared`, `shared_races`, `global_races` | `PTX_EMULATOR_CHECKS`: those to be on, with commas, or `none` | 0 or 1 |
//! | `block` | - | run only this block (linear index) of every grid; `all` |
//! | `memory` | `PTX_EMULATOR_MEMORY` | bytes that the card has; `card` |
//! | - | `PTX_EMULATOR_LEAKS` | 1: say at exit what was not freed |
//! | - | `PTX_EMULATOR_LOG` | 1: a line for every launch |

use std::cell::RefCell;
use std::ffi::c_char;
use std::sync::LazyLock;

use super::device::device;
use super::ffi::{Out, Text, api};
use super::status::{Error, INVALID_VALUE, answer, last_fault};
use crate::card::{CARDS, Card};
use crate::memory::Checks;

/// Settings of one thread.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settings {
    pub card: &'static Card,
    pub seed: u64,
    pub checks: Checks,
    /// The only block that runs.
    pub block: Option<u64>,
    /// Bytes of the card, where they are not the card's own.
    pub memory: Option<u64>,
}

impl Settings {
    pub fn memory(&self) -> u64 {
        self.memory.unwrap_or(self.card.memory)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), Error> {
        let wrong = || Error::new(INVALID_VALUE, format!("setting {key} cannot be {value}"));
        let number = || value.parse::<u64>().map_err(|_| wrong());
        let flag = || match value {
            "0" => Ok(false),
            "1" => Ok(true),
            _ => Err(wrong()),
        };
        match key {
            "card" => self.card = Card::named(value).ok_or_else(wrong)?,
            "seed" => self.seed = number()?,
            "uninitialised" => self.checks.uninitialised = flag()?,
            "uninitialised_shared" => self.checks.uninitialised_shared = flag()?,
            "shared_races" => self.checks.shared_races = flag()?,
            "global_races" => self.checks.global_races = flag()?,
            "block" => {
                self.block = if value == "all" {
                    None
                } else {
                    Some(number()?)
                }
            }
            "memory" => {
                self.memory = if value == "card" {
                    None
                } else {
                    Some(number()?)
                }
            }
            _ => {
                return Err(Error::new(
                    INVALID_VALUE,
                    format!("there is no setting {key}"),
                ));
            }
        }
        Ok(())
    }

    fn from_environment() -> Self {
        let mut settings = Self {
            card: &CARDS[0],
            seed: 0,
            checks: Checks::default(),
            block: None,
            memory: None,
        };
        for (key, name) in [("card", "CARD"), ("seed", "SEED"), ("memory", "MEMORY")] {
            if let Ok(value) = std::env::var(format!("PTX_EMULATOR_{name}"))
                && let Err(error) = settings.set(key, &value)
            {
                eprintln!("ptx-emulator: {}", error.text);
            }
        }
        if let Ok(value) = std::env::var("PTX_EMULATOR_CHECKS") {
            let on = |key: &str| value.split(',').any(|part| part == key);
            settings.checks = Checks {
                uninitialised: on("uninitialised"),
                uninitialised_shared: on("uninitialised_shared"),
                shared_races: on("shared_races"),
                global_races: on("global_races"),
            };
        }
        settings
    }
}

static ENVIRONMENT: LazyLock<Settings> = LazyLock::new(Settings::from_environment);

/// Whether a line is wanted for every launch.
pub(super) static LOG: LazyLock<bool> = LazyLock::new(|| flag("PTX_EMULATOR_LOG"));

/// Whether an environment variable is set to anything but 0.
pub(super) fn flag(name: &str) -> bool {
    std::env::var(name).is_ok_and(|value| !value.is_empty() && value != "0")
}

thread_local! {
    static SETTINGS: RefCell<Settings> = RefCell::new(*ENVIRONMENT);
}

/// Those of this thread.
pub(super) fn settings() -> Settings {
    SETTINGS.with_borrow(|settings| *settings)
}

api! { table, answer;
    /// Sets one setting of this thread.
    fn ptx_emulator_set(key: Text, value: Text) {
        let (key, value) = (key.get()?, value.get()?);
        SETTINGS.with_borrow_mut(|settings| settings.set(&key, &value))
    }

    /// Sets all settings of this thread back to those of the environment.
    fn ptx_emulator_reset() {
        SETTINGS.set(*ENVIRONMENT);
        Ok(())
    }
}

/// Text of this thread's last failed call, into a buffer of `len` bytes (with a zero at the end); its whole length.
#[unsafe(no_mangle)]
pub extern "C" fn ptx_emulator_last_fault(buffer: Out<c_char>, len: usize) -> usize {
    let text = last_fault();
    let _ = buffer.set_text(&text, len);
    text.len()
}

/// What is allocated or not destroyed now, as text, into a buffer of `len` bytes; its whole length, 0 if nothing is.
#[unsafe(no_mangle)]
pub extern "C" fn ptx_emulator_leaks(buffer: Out<c_char>, len: usize) -> usize {
    let text = device().leaks();
    let _ = buffer.set_text(&text, len);
    text.len()
}

//! Sees a generation and names what it sees as the fixtures do.

use std::collections::BTreeMap;
use std::sync::Mutex;

use candle_core::Tensor;
use qwen_nvfp4::context::Observer;

/// Names what flows by as the fixture does.
#[derive(Default)]
pub struct Recorder(Mutex<Recorded>);

#[derive(Default)]
struct Recorded {
    stages: BTreeMap<String, Tensor>,
    pending: Vec<(String, Tensor)>,
    step: usize,
}

impl Recorder {
    /// What was seen so far, by the fixture's names without the run.
    pub fn stages(&self) -> BTreeMap<String, Tensor> {
        self.0.lock().unwrap().stages.clone()
    }
}

impl Observer for Recorder {
    fn stage(&self, name: &str, value: &Tensor) {
        let r = &mut *self.0.lock().unwrap();
        let (step, value) = (r.step, value.clone());
        match name {
            "velocity.cond" | "velocity.uncond" => {
                let call = format!("step{step}.{}", name.split_once('.').unwrap().1);
                for (name, value) in r.pending.drain(..) {
                    r.stages.insert(format!("{call}.{name}"), value);
                }
                r.stages.insert(format!("{call}.velocity"), value);
            }
            "velocity" => {
                r.stages.insert(format!("step{step}.combined"), value);
                r.step += 1;
            }
            "prompt_embeds" => drop(r.stages.insert(name.to_owned(), value)),
            "negative_prompt_embeds" => drop(r.stages.insert("negative_embeds".to_owned(), value)),
            "temb" => r.pending.push((name.to_owned(), value)),
            _ if name.starts_with("transformer_blocks.") => {
                r.pending.push((name.to_owned(), value))
            }
            _ => {
                // The first prompt's hidden states: number 0 is the embedding, so layer n gives number n + 1.
                if let Some(layer) = name.strip_prefix("model.layers.") {
                    let key = format!("prompt_hidden.{}", layer.parse::<usize>().unwrap() + 1);
                    r.stages.entry(key).or_insert(value);
                }
            }
        }
    }
}

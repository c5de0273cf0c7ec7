//! From host slices through a launcher and back.

use cudarc::driver::CudaSlice;
use half::bf16;
use qwen_nvfp4_kernels::attention::{Attention, HeadRows, Keys, Operands};
use qwen_nvfp4_kernels::attention_fp8::Fp8Layout;
use qwen_nvfp4_kernels::{Gpu, KernelError};

use super::{Case, HEAD, Inputs, Sees};
use crate::common::emulator;

/// An emulated card. One at a time in a test: its settings end with it.
pub struct Card {
    pub gpu: Gpu,
    _settings: emulator::Settings,
}

/// `card` with its warps in order number `seed`.
pub fn card(card: &str, seed: u32) -> Card {
    let context = emulator::context();
    let settings = emulator::settings(&[("card", card), ("seed", &seed.to_string())]);
    Card {
        gpu: Gpu::of_context(context).unwrap(),
        _settings: settings,
    }
}

/// Calls `call` with the form of attention of `case`.
pub fn with_form<T>(gpu: &Gpu, case: &Case, call: impl FnOnce(&Attention<'_>) -> T) -> T {
    let lengths = match &case.sees {
        Sees::Padded { valid, .. } => valid.clone(),
        Sees::All | Sees::Causal => vec![0],
    };
    let lengths = gpu.stream().clone_htod(&lengths).unwrap();
    let valid = lengths.as_view();
    let sees = match &case.sees {
        Sees::All => Keys::All,
        Sees::Causal => Keys::Causal,
        Sees::Padded { padded, .. } => Keys::PaddedPrefix {
            valid: &valid,
            padded: *padded,
        },
    };
    call(&Attention {
        batch: case.batch,
        queries: case.queries,
        keys: case.keys,
        heads: case.heads,
        kv_heads: case.kv_heads,
        scale: case.scale,
        sees,
    })
}

/// Calls `call` with contiguous operands on the card.
pub fn with_operands<T>(
    gpu: &Gpu,
    case: &Case,
    inputs: &Inputs,
    call: impl FnOnce(&Operands<'_>) -> T,
) -> T {
    let [q, k, v] = [&inputs.q, &inputs.k, &inputs.v].map(|x| gpu.stream().clone_htod(x).unwrap());
    let [q, k, v] = [q.as_view(), k.as_view(), v.as_view()];
    let rows = |data, rows: usize, heads: usize| HeadRows {
        data,
        row: heads * HEAD,
        batch: rows * heads * HEAD,
    };
    call(&Operands {
        q: rows(&q, case.queries, case.heads),
        k: rows(&k, case.keys, case.kv_heads),
        v: rows(&v, case.keys, case.kv_heads),
    })
}

/// An output full of NaN: what a kernel leaves out is seen.
pub fn output(gpu: &Gpu, case: &Case) -> CudaSlice<bf16> {
    let length = case.batch * case.queries * case.heads * HEAD;
    gpu.stream().clone_htod(&vec![bf16::NAN; length]).unwrap()
}

/// `attention_bf16.cu`.
pub fn bf16(gpu: &Gpu, case: &Case, inputs: &Inputs) -> Result<Vec<bf16>, KernelError> {
    let mut out = output(gpu, case);
    with_form(gpu, case, |form| {
        with_operands(gpu, case, inputs, |operands| {
            form.bf16(gpu, &mut out.as_view_mut(), operands)
        })
    })?;
    Ok(gpu.stream().clone_dtoh(&out).unwrap())
}

/// What FP8 attention leaves behind.
pub struct Fp8 {
    pub out: Vec<bf16>,
    pub layout: Fp8Layout,
    pub workspace: Vec<u8>,
}

/// `attention_fp8.cu` and its preparation.
pub fn fp8(gpu: &Gpu, case: &Case, inputs: &Inputs) -> Result<Fp8, KernelError> {
    let mut out = output(gpu, case);
    with_form(gpu, case, |form| {
        let layout = Fp8Layout::of(form);
        // SAFETY: kernels write before they read; the emulator's check of uninitialised bytes is on.
        let mut workspace = unsafe { gpu.stream().alloc::<u8>(layout.bytes) }.unwrap();
        with_operands(gpu, case, inputs, |operands| {
            let (out, workspace) = (&mut out.as_view_mut(), &mut workspace.as_view_mut());
            form.fp8(gpu, out, operands, workspace)
        })?;
        let out = gpu.stream().clone_dtoh(&out).unwrap();
        // Tiles that no key falls into were never written, and are copied all the same.
        check_uninitialised("0");
        let workspace = gpu.stream().clone_dtoh(&workspace).unwrap();
        check_uninitialised("1");
        Ok(Fp8 {
            out,
            layout,
            workspace,
        })
    })
}

/// Beside the other settings, which a dropped guard would end.
fn check_uninitialised(on: &str) {
    std::mem::forget(emulator::settings(&[("uninitialised", on)]));
}

//! A conversion that fails leaves nothing behind, and a file that was changed after it is found.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::path::Path;

use common::cli::tiny;
use common::convert::{monitor, output, try_convert, unscaled};
use qwen_nvfp4::checkpoint::SafetensorsFile;
use qwen_nvfp4::context::Cancel;
use qwen_nvfp4::quantize::execute::verify;
use qwen_nvfp4::quantize::{ConvertError, Monitor, Plan, Policy, Source, execute};
use safetensors::Dtype;

#[test]
fn faults_leave_nothing_behind() {
    let out = output();
    let folder = out.path.parent().unwrap();
    let empty = || std::fs::read_dir(folder).unwrap().count() == 0;
    let fails = |input: &Path, words: &[&str]| {
        let error = try_convert(input, &out.path, "v3", &unscaled())
            .expect_err("a refusal")
            .to_string();
        for word in words {
            assert!(error.contains(word), "`{word}` is not in: {error}");
        }
        assert!(empty());
    };
    let scratch = tempfile::tempdir().unwrap();
    // A NaN in a weight that is quantized, found in the middle of the work.
    let bytes = std::fs::read(tiny()).unwrap();
    let file = SafetensorsFile::open(&tiny()).unwrap();
    let layer = "model.diffusion_model.transformer_blocks.5.attn.to_q";
    let view = file.view(&format!("{layer}.weight")).unwrap();
    let k = view.shape()[1];
    let mut spoiled = bytes.clone();
    spoiled[view.offset() + 3 * k + 7] = 0xff;
    let nan = scratch.path().join("nan.safetensors");
    std::fs::write(&nan, &spoiled).unwrap();
    fails(&nan, &[layer, "row 3, column 7", "nan.safetensors"]);
    // And in tensors that only go over: a kept weight, a bias that is widened, the VAE's BF16.
    for (name, at, byte) in [
        ("model.diffusion_model.img_in.weight", 5, 0x7f),
        ("model.diffusion_model.proj_out.bias", 2, 0xff),
        ("vae.decoder.conv1.bias", 3, 0xff),
    ] {
        let view = file.view(name).unwrap();
        let mut spoiled = bytes.clone();
        let width = if view.dtype() == Dtype::BF16 { 2 } else { 1 };
        spoiled[view.offset() + width * at..][..width].fill(byte);
        std::fs::write(&nan, &spoiled).unwrap();
        fails(&nan, &[name, &format!("number {at}"), "nan.safetensors"]);
    }
    std::fs::write(&nan, &spoiled).unwrap();
    let cut = scratch.path().join("cut.safetensors");
    std::fs::write(&cut, &bytes[..bytes.len() - 100]).unwrap();
    fails(&cut, &["tensors are cut", "cut.safetensors"]);

    // The input is the output, by another name.
    let link = scratch.path().join("link.safetensors");
    std::os::unix::fs::symlink(&nan, &link).unwrap();
    let source = Source::open(&nan).unwrap();
    let plan = Plan::new(
        &source,
        &Policy::built_in("v3").unwrap().unwrap(),
        None,
        &unscaled(),
    )
    .unwrap();
    let error = execute(&plan, &source, (&link, true), &monitor())
        .err()
        .unwrap();
    assert!(error.to_string().contains("is the input"), "{error}");

    // The input is cut while it is read, then replaced.
    let victim = scratch.path().join("victim.safetensors");
    std::fs::write(&victim, &bytes).unwrap();
    let source = Source::open(&victim).unwrap();
    let plan = Plan::new(
        &source,
        &Policy::built_in("v3").unwrap().unwrap(),
        None,
        &unscaled(),
    )
    .unwrap();
    let cutter = std::fs::OpenOptions::new()
        .write(true)
        .open(&victim)
        .unwrap();
    let once = std::sync::Once::new();
    let cutting = Monitor {
        cancel: Cancel::default(),
        done: &|_| once.call_once(|| cutter.set_len(1 << 20).unwrap()),
    };
    let error = execute(&plan, &source, (&out.path, false), &cutting)
        .err()
        .unwrap();
    assert!(
        error.to_string().contains("changed while it was read"),
        "{error}"
    );
    assert!(empty());
    let error = execute(&plan, &source, (&out.path, false), &monitor())
        .err()
        .unwrap();
    assert!(
        error.to_string().contains("changed while it was read"),
        "{error}"
    );

    // A request to stop.
    let source = Source::open(&tiny()).unwrap();
    let plan = Plan::new(
        &source,
        &Policy::built_in("v3").unwrap().unwrap(),
        None,
        &unscaled(),
    )
    .unwrap();
    let cancel = Cancel::default();
    let handle = cancel.clone();
    let stopping = Monitor {
        cancel,
        done: &|_| handle.cancel(),
    };
    let error = execute(&plan, &source, (&out.path, false), &stopping)
        .err()
        .unwrap();
    assert!(matches!(error, ConvertError::Cancelled) && empty());
}

/// One changed bit anywhere is found.
#[test]
fn verification_finds_a_changed_bit() {
    let out = output();
    try_convert(&tiny(), &out.path, "v5", &unscaled()).unwrap();
    let source = Source::open(&tiny()).unwrap();
    let plan = Plan::new(
        &source,
        &Policy::built_in("v5").unwrap().unwrap(),
        None,
        &unscaled(),
    )
    .unwrap();
    let whole = std::fs::read(&out.path).unwrap();
    for at in [whole.len() - 1, whole.len() / 2, whole.len() / 3, 100_000] {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        std::fs::write(&out.path, &bytes).unwrap();
        let error = verify(&plan, &source, &out.path, &monitor()).err();
        assert!(error.is_some(), "byte {at}");
    }
    std::fs::write(&out.path, &whole).unwrap();
    verify(&plan, &source, &out.path, &monitor()).unwrap();
}

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::HashMap;
use std::io::Read;

use proptest::prelude::*;
use safetensors::tensor::TensorView;

use super::*;

fn tensor(name: &str, dtype: Dtype, shape: &[usize]) -> NewTensor {
    NewTensor {
        name: name.to_owned(),
        dtype,
        shape: shape.to_vec(),
    }
}

/// The whole file as the reference writes it, all data zero.
fn reference(tensors: &[NewTensor], metadata: &BTreeMap<String, String>) -> Vec<u8> {
    let size = |t: &NewTensor| bytes(t).unwrap() as usize;
    let longest = tensors.iter().map(size).max().unwrap_or(0);
    let zeros = vec![0; longest];
    let views = tensors.iter().map(|t| {
        let view = TensorView::new(t.dtype, t.shape.clone(), &zeros[..size(t)]).unwrap();
        (t.name.as_str(), view)
    });
    let metadata: Option<HashMap<_, _>> =
        (!metadata.is_empty()).then(|| metadata.clone().into_iter().collect());
    safetensors::serialize(views, metadata).unwrap()
}

fn dtype() -> impl Strategy<Value = Dtype> {
    prop::sample::select(vec![
        Dtype::BOOL,
        Dtype::U8,
        Dtype::I8,
        Dtype::F8_E5M2,
        Dtype::F8_E4M3,
        Dtype::F8_E8M0,
        Dtype::I16,
        Dtype::F16,
        Dtype::BF16,
        Dtype::I32,
        Dtype::F32,
        Dtype::F64,
        Dtype::I64,
        Dtype::U64,
    ])
}

proptest! {
    /// Any names, also those that JSON escapes, against the `safetensors` crate. It writes several metadata
    /// entries in the random order of a hash map, so there is at most one here.
    #[test]
    fn headers_equal_the_reference(
        tensors in prop::collection::btree_map(
            ".{0,12}", (dtype(), prop::collection::vec(0usize..5, 0..4)), 0..12,
        ),
        metadata in prop::option::of((".{0,8}", ".{0,20}")),
        turn in 0usize..12,
    ) {
        let mut tensors: Vec<NewTensor> = tensors
            .iter()
            .map(|(name, (dtype, shape))| tensor(name, *dtype, shape))
            .collect();
        let turn = turn % tensors.len().max(1);
        tensors.rotate_left(turn);
        let metadata: BTreeMap<String, String> = metadata.into_iter().collect();
        let expected = reference(&tensors, &metadata);
        let layout = Layout::of(tensors, &metadata).unwrap();
        prop_assert_eq!(layout.header(), &expected[..layout.header().len()]);
        prop_assert_eq!(layout.file_len(), expected.len() as u64);
        // The places are those that the reference reads from its own header.
        let (n, read) = safetensors::SafeTensors::read_metadata(&expected).unwrap();
        for index in 0..layout.tensors() {
            let (begin, end) = read.info(layout.name(index)).unwrap().data_offsets;
            prop_assert_eq!(layout.place(index), ((8 + n + begin) as u64, (8 + n + end) as u64));
        }
    }
}

#[test]
fn several_metadata_entries_are_sorted() {
    let metadata = BTreeMap::from([("b", "2"), ("a", "\"1\"")].map(|(k, v)| (k.into(), v.into())));
    let layout = Layout::of(vec![tensor("x", Dtype::U8, &[1])], &metadata).unwrap();
    let expected = r#"{"__metadata__":{"a":"\"1\"","b":"2"},"x":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#;
    let json = std::str::from_utf8(&layout.header()[8..]).unwrap();
    assert_eq!(json.trim_end(), expected);
    assert_eq!(layout.header().len() % 8, 0);
}

#[test]
fn sets_that_make_no_file() {
    let big = (0..8).map(|i| tensor(&format!("{i}"), Dtype::U8, &[1 << 60]));
    let long = "x".repeat(1 << 20);
    let many = (0..96).map(|i| tensor(&format!("{i}{long}"), Dtype::U8, &[0]));
    for (tensors, found) in [
        (vec![tensor("a", Dtype::F4, &[3])], "whole bytes"),
        (
            vec![tensor("a", Dtype::F32, &[usize::MAX, 4])],
            "whole bytes",
        ),
        (big.collect(), "addressed"),
        (
            vec![tensor("a", Dtype::U8, &[1]), tensor("a", Dtype::F32, &[1])],
            "two tensors",
        ),
        (vec![tensor("__metadata__", Dtype::U8, &[1])], "the name"),
        (many.collect(), "header would be"),
    ] {
        let error = Layout::of(tensors, &BTreeMap::new()).unwrap_err();
        assert!(error.to_string().contains(found), "{error}");
    }
}

/// (component, all-in-one name, diffusers name, shape) of the full-size model, as diffusers and transformers build it.
fn full_size(component: &str) -> Vec<(String, String, Vec<usize>)> {
    let packed = include_bytes!("../../tests/fixtures/full_size/full_size.tsv.gz");
    let mut text = String::new();
    flate2::read::GzDecoder::new(&packed[..])
        .read_to_string(&mut text)
        .unwrap();
    let mut out = Vec::new();
    for line in text.lines() {
        let [found, stored, canonical, shape] =
            line.split('\t').collect::<Vec<_>>().try_into().unwrap();
        if found == component {
            let shape = serde_json::from_str(shape).unwrap();
            out.push((stored.to_owned(), canonical.to_owned(), shape));
        }
    }
    out
}

fn length(tensors: Vec<NewTensor>) -> u64 {
    Layout::of(tensors, &BTreeMap::new()).unwrap().file_len()
}

/// Three published files, to the byte.
#[test]
fn published_file_sizes() {
    // qwen_image_edit_2509_fp8_e4m3fn.safetensors: everything in FP8.
    let transformer = full_size("transformer");
    let fp8 = transformer
        .iter()
        .map(|(_, name, shape)| tensor(name, Dtype::F8_E4M3, shape));
    assert_eq!(length(fp8.collect()), 20_430_635_136);

    // qwen_image_vae.safetensors: Wan's names, BF16.
    let vae = full_size("vae");
    let bf16 = vae
        .iter()
        .map(|(name, _, shape)| tensor(name.strip_prefix("vae.").unwrap(), Dtype::BF16, shape));
    assert_eq!(length(bf16.collect()), 253_806_246);

    // qwen_2.5_vl_7b_fp8_scaled.safetensors: linears in FP8 with two scales each, an empty marker, the rest BF16.
    let mut scaled = vec![
        tensor("lm_head.weight", Dtype::BF16, &[152_064, 3584]),
        tensor("scaled_fp8", Dtype::F8_E4M3, &[0]),
    ];
    let mut linears = 0;
    for (_, name, shape) in full_size("text_encoder") {
        let layer = name
            .strip_suffix(".weight")
            .filter(|layer| !layer.ends_with("embed_tokens"));
        match layer.filter(|_| shape.len() == 2) {
            Some(layer) => {
                linears += 1;
                scaled.push(tensor(&name, Dtype::F8_E4M3, &shape));
                scaled.push(tensor(&format!("{layer}.scale_weight"), Dtype::F32, &[]));
                scaled.push(tensor(&format!("{layer}.scale_input"), Dtype::F32, &[]));
            }
            None => scaled.push(tensor(&name, Dtype::BF16, &shape)),
        }
    }
    assert_eq!(linears, 358);
    assert_eq!(length(scaled), 9_384_670_680);
}

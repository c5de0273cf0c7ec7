//! The full-size model, without its 28 GB: every name and shape that diffusers and transformers build, in a
//! sparse file with an FP8 all-in-one header, is claimed by the loaders, once, or is on the list of the rest.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use candle_core::Device;
use common::full_size::{golden, sparse};
use qwen_nvfp4::checkpoint::{Checkpoint, Component, ModelSource};
use qwen_nvfp4::model::config::{TextEncoderConfig, TransformerConfig, VaeConfig};
use qwen_nvfp4::model::inventory::{self, VisionSizes};
use qwen_nvfp4::model::text_encoder::LanguageModel;
use qwen_nvfp4::model::transformer::QwenImageTransformer;
use qwen_nvfp4::model::vae::{Decoder, Encoder};

#[test]
fn every_tensor_is_claimed_once_or_known_to_be_left_alone() {
    let golden = golden();
    let count = |c| golden.iter().filter(|g| g.component == c).count();
    assert_eq!(Component::ALL.map(count), [1933, 728, 194]);
    let file = sparse(&golden);
    let source = ModelSource::Files {
        model: file.path().to_owned(),
        text_encoder: None,
        vae: None,
    };
    let checkpoint = Checkpoint::open(&source, &Device::Cpu).unwrap();
    for (component, weights) in [
        (Component::Transformer, &checkpoint.transformer),
        (Component::TextEncoder, &checkpoint.text_encoder),
        (Component::Vae, &checkpoint.vae),
    ] {
        let expected: BTreeMap<_, _> = golden
            .iter()
            .filter(|g| g.component == component)
            .map(|g| (g.canonical.as_str(), g.shape.as_slice()))
            .collect();
        let found: BTreeMap<_, _> = weights
            .names()
            .filter(|name| *name != "logit_scale")
            .map(|name| (name, weights.shape(name).unwrap()))
            .collect();
        assert_eq!(found, expected, "{component}");
    }

    let transformer = TransformerConfig::detect(&checkpoint.transformer, None).unwrap();
    let encoder = TextEncoderConfig::detect(&checkpoint.text_encoder, None).unwrap();
    let vae = VaeConfig::detect(&checkpoint.vae, None).unwrap();
    assert_eq!(
        (
            transformer.num_layers,
            transformer.num_attention_heads,
            transformer.attention_head_dim
        ),
        (60, 24, 128)
    );
    assert_eq!(
        (
            encoder.num_hidden_layers,
            encoder.num_attention_heads,
            encoder.num_key_value_heads
        ),
        (28, 28, 4)
    );
    assert_eq!((vae.base_dim, vae.z_dim, vae.num_res_blocks), (96, 16, 2));
    assert_eq!(vae.dim_mult, [1, 2, 4, 4]);
    assert_eq!(vae.temporal_downsample, [false, true, true]);

    // The inventory is the golden list.
    let vision = VisionSizes::detect(&checkpoint.text_encoder).unwrap();
    let listed: BTreeMap<_, _> = inventory::transformer(&transformer)
        .into_iter()
        .chain(inventory::text_encoder(&encoder, Some(&vision)))
        .chain(inventory::vae(&vae))
        .collect();
    let all: BTreeMap<_, _> = golden
        .iter()
        .map(|g| (g.canonical.clone(), g.shape.clone()))
        .collect();
    assert_eq!(listed, all);

    QwenImageTransformer::load(&checkpoint.transformer, &transformer).unwrap();
    LanguageModel::load(&checkpoint.text_encoder, &encoder).unwrap();
    Decoder::load(&checkpoint.vae, &vae).unwrap();
    let unclaimed = |weights: &qwen_nvfp4::checkpoint::Weights| -> BTreeSet<String> {
        weights.unclaimed().into_iter().map(str::to_owned).collect()
    };

    // The last block's text output feeds nothing, so what only computes it is not loaded.
    let dead: BTreeSet<String> = all
        .keys()
        .filter(|name| {
            name.strip_prefix("transformer_blocks.59.")
                .is_some_and(|rest| {
                    [
                        "attn.add_q_proj.",
                        "attn.norm_added_q.",
                        "attn.to_add_out.",
                        "txt_mlp.",
                    ]
                    .iter()
                    .any(|layer| rest.starts_with(layer))
                })
        })
        .cloned()
        .collect();
    assert_eq!(dead.len(), 9);
    assert_eq!(unclaimed(&checkpoint.transformer), dead);

    let vision: BTreeSet<String> = all
        .keys()
        .filter(|name| name.starts_with("visual."))
        .cloned()
        .chain(["logit_scale".to_owned()])
        .collect();
    assert_eq!(vision.len(), 391);
    assert_eq!(unclaimed(&checkpoint.text_encoder), vision);

    // A first frame runs no convolution in time; decoding needs no encoder.
    let is_encoder = |name: &str| name.starts_with("encoder.") || name.starts_with("quant_conv.");
    let time_or_encoder: BTreeSet<String> = golden
        .iter()
        .filter(|g| g.component == Component::Vae)
        .map(|g| g.canonical.clone())
        .filter(|name| is_encoder(name) || name.contains(".time_conv."))
        .collect();
    assert_eq!(unclaimed(&checkpoint.vae), time_or_encoder);
    Encoder::load(&checkpoint.vae, &vae).unwrap();
    let time: BTreeSet<String> = time_or_encoder
        .into_iter()
        .filter(|name| name.contains(".time_conv."))
        .collect();
    assert_eq!(time.len(), 8);
    assert_eq!(unclaimed(&checkpoint.vae), time);
}

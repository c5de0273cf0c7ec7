//! Token ids equal transformers' `Qwen2Tokenizer`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;

use qwen_nvfp4::model::text_encoder::tokenizer::Tokenizer;

#[test]
fn ids_equal_transformers_on_300_strings() {
    let rows: Vec<(String, Vec<u32>)> =
        serde_json::from_str(include_str!("fixtures/tokenizer/qwen2.5.json")).unwrap();
    assert_eq!(rows.len(), 300);
    let tokenizer = Tokenizer::qwen2_5().unwrap();
    assert_eq!(tokenizer.len(), 151_665);
    let wrong: Vec<_> = rows
        .iter()
        .filter(|(text, ids)| tokenizer.encode(text).unwrap() != *ids)
        .collect();
    assert!(
        wrong.is_empty(),
        "{} differ, first {:?}",
        wrong.len(),
        wrong[0]
    );
}

#[test]
fn a_decoded_text_is_the_text() {
    let tokenizer = Tokenizer::qwen2_5().unwrap();
    for text in ["a large red star", "熊猫 <|im_end|> 👍🏽", "\n\t "] {
        let ids = tokenizer.encode(text).unwrap();
        assert_eq!(tokenizer.decode(&ids).unwrap(), text);
    }
}

const TINY: &[u8] = include_bytes!("../models/tiny/tokenizer/tokenizer.json");

fn tiny_rows() -> Vec<(String, Vec<u32>)> {
    serde_json::from_str(include_str!("fixtures/tokenizer/tiny.json")).unwrap()
}

fn assert_tiny(tokenizer: &Tokenizer) {
    for (text, ids) in tiny_rows() {
        assert_eq!(tokenizer.encode(&text).unwrap(), ids, "{text:?}");
    }
}

#[test]
fn a_small_tokenizer_equals_transformers() {
    assert_tiny(&Tokenizer::from_json(TINY, "tiny").unwrap());
}

/// transformers writes the truncation and padding of its last call into `tokenizer.json`.
#[test]
fn limits_saved_in_the_json_do_not_cut() {
    let mut json: serde_json::Value = serde_json::from_slice(TINY).unwrap();
    json["truncation"] = serde_json::json!({"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0});
    json["padding"] = serde_json::json!({"strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": null,
                                         "pad_id": 534, "pad_type_id": 0, "pad_token": "<|endoftext|>"});
    let json = serde_json::to_vec(&json).unwrap();
    assert_tiny(&Tokenizer::from_json(&json, "tiny").unwrap());
}

/// The tiny tokenizer as the published Qwen-Image folder has its own: `vocab.json`, `merges.txt` and a config.
fn slow_folder(endoftext: u32) -> tempfile::TempDir {
    let json: serde_json::Value = serde_json::from_slice(TINY).unwrap();
    let merges = json["model"]["merges"].as_array().unwrap().iter();
    let merges: Vec<String> = merges
        .map(|m| {
            let [a, b] = [0, 1].map(|i| m[i].as_str().unwrap());
            format!("{a} {b}")
        })
        .collect();
    let mut added = serde_json::Map::new();
    for token in json["added_tokens"].as_array().unwrap() {
        let mut token = token.as_object().unwrap().clone();
        let id = token.remove("id").unwrap().as_u64().unwrap();
        let id = if id == 534 { u64::from(endoftext) } else { id };
        added.insert(id.to_string(), token.into());
    }
    let config =
        serde_json::json!({"tokenizer_class": "Qwen2Tokenizer", "added_tokens_decoder": added});
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: String| fs::write(folder.path().join(name), text).unwrap();
    write("vocab.json", json["model"]["vocab"].to_string());
    write(
        "merges.txt",
        format!("#version: 0.2\n{}\n\n", merges.join("\n")),
    );
    write("tokenizer_config.json", config.to_string());
    folder
}

#[test]
fn a_folder_of_vocabulary_and_merges_keeps_its_own_added_tokens() {
    assert_tiny(&Tokenizer::from_folder(slow_folder(534).path()).unwrap());
}

#[test]
fn an_added_token_that_cannot_have_its_id_is_refused() {
    let Err(error) = Tokenizer::from_folder(slow_folder(900).path()) else {
        panic!("accepted");
    };
    // Nothing is declared as 534 then, and added tokens get the ids that follow each other: the next is the first
    // that cannot have its own.
    let message = error.to_string();
    assert!(
        message.contains("<|im_start|> is declared as 535 but becomes Some(534)"),
        "{message}"
    );
}

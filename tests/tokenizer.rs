//! Token ids equal transformers' `Qwen2Tokenizer`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

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

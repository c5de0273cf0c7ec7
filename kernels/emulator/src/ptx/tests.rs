use proptest::prelude::*;

use super::{Module, Operand, Space, Statement, Type};

const HEAD: &str = ".version 8.8\n.target sm_120a, debug\n.address_size 64\n";

#[test]
fn a_module_is_read_with_its_directives() {
    let text = format!(
        "{HEAD}// a comment\n/* another\n over lines */\n.extern .shared .align 16 .b8 dynamic[];\n\
         .global .align 4 .u32 table[3] = {{1, 0x10, -1}};\n\
         .func (.param .b32 r) helper(.param .b64 x);\n\
         .visible .entry k(\n\t.param .u64 .ptr .global .align 16 a,\n\t.param .align 8 .b8 s[24]\n)\n\
         .maxntid 128, 2, 1\n.minnctapersm 3\n.maxnreg 168\n{{\n.reg .b32 %r<5>;\n.loc 1 2 3\n.pragma \"nounroll\";\n\
         $L__BB0_1:\n@!%p1 ld.global.v2.f32 {{%f1, %f2}}, [%rd1+-8];\nret;\n}}\n\
         .section .debug_str {{\n.b8 1, 2\n}}\n"
    );
    let module = Module::parse(&text).unwrap();
    assert_eq!(
        (module.version, module.target.as_str()),
        ((8, 8), "sm_120a")
    );
    assert_eq!(module.variables[0].bytes, 0);
    assert_eq!(
        module.variables[1].initial,
        [1, 0, 0, 0, 16, 0, 0, 0, 255, 255, 255, 255]
    );
    assert_eq!(module.variables[1].space, Space::Global);
    let [function] = &module.functions[..] else {
        panic!("one function has a body")
    };
    assert_eq!(
        (function.maxntid, function.minnctapersm, function.maxnreg),
        (Some([128, 2, 1]), Some(3), Some(168))
    );
    // `.ptr .align` is of what is pointed at.
    assert_eq!(
        (function.parameters[0].kind, function.parameters[0].align),
        (Type::U64, 8)
    );
    assert_eq!(
        (function.parameters[1].bytes, function.parameters[1].align),
        (24, 8)
    );
    let Statement::Instruction(load) = &function.body[2] else {
        panic!("{:?}", function.body)
    };
    assert_eq!(
        load.operands[1],
        Operand::Memory {
            base: "%rd1".to_owned(),
            offset: -8
        }
    );
    assert_eq!(
        load.to_string(),
        "@!%p1 ld.global.v2.f32 {%f1, %f2}, [%rd1+-8];"
    );
    assert_eq!(
        text.lines().nth(load.line - 1).unwrap(),
        "@!%p1 ld.global.v2.f32 {%f1, %f2}, [%rd1+-8];"
    );
}

#[test]
fn an_error_names_its_line() {
    let error = Module::parse(&format!(
        "{HEAD}.visible .entry k() {{\nmov.u32 %r1 %r2;\n}}"
    ))
    .unwrap_err();
    assert_eq!((error.line, error.text.as_str()), (5, "mov.u32 %r1 %r2;"));
    assert!(Module::parse("no ptx at all").is_err());
    assert!(Module::parse("").is_err());
}

const SAMPLE: &str = ".version 8.8\n.target sm_89\n.global .align 1 .b8 g[4] = {1, 2};\n.visible .entry k(.param .u64 p)\n\
    .maxntid 8\n{\n.reg .pred %p<2>;\n.reg .b64 %d<3>;\n.shared .align 4 .b8 s[8];\nL: ld.param.u64 %d1, [p];\n\
    @%p1 bra L;\nsetp.lt.f32 %p1|%p0, 0f3F800000, -1.5e3;\ncall (r), f, (a, b);\n{ .reg .b32 x; }\nret;\n}\n";

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in ".{0,200}") {
        let _ = Module::parse(&text);
    }

    #[test]
    fn no_change_of_a_module_makes_the_parser_panic(
        at in 0..SAMPLE.len(), length in 0usize..12, put in "[\\[\\]{}(),;:.+@|<>=!%a-z0-9 -]{0,12}",
    ) {
        let end = (at + length).min(SAMPLE.len());
        let text = format!("{}{put}{}", &SAMPLE[..at], &SAMPLE[end..]);
        if let Ok(module) = Module::parse(&text) {
            // What parses is decoded, or refused, without a panic too.
            if let Ok(program) = crate::vm::Program::new(&module) {
                for entry in program.entries() {
                    let _ = entry.needs();
                }
            }
        }
    }

    #[test]
    fn no_order_of_tokens_makes_the_parser_panic(words in proptest::collection::vec(
        prop::sample::select(vec![
            ".version", "8.8", ".target", "sm_89", ".entry", ".func", "k", "(", ")", "{", "}", ".param", ".u64", ".reg",
            ".b32", "%r<4>", ";", ",", "mov.b32", "%r1", "7", "[", "]", "+", "-", ":", "@", "!", ".shared", "=", "L",
            "bra", "ret", "99999999999999999999", ".align", "0f00000000", "|", ".pred", ".section", "\"x\"", ".file",
        ]), 0..60)) {
        let _ = Module::parse(&format!(".version 8.8\n.target sm_89\n{}", words.join(" ")));
    }
}

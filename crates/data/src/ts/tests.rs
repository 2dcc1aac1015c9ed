use super::*;
use proptest::prelude::*;

const TOY: &str = "\
# two channels
@problemName Toy
@timeStamps false
@missing true
@univariate false
@dimensions 2
@equalLength false
@classLabel true up down

@data
1,2,3:4,5,6:up
7,-8e1:?,NaN:down
";

/// Parses the toy file with `from` replaced by `to`, and expects an error.
fn problem(from: &str, to: &str) -> (usize, TsProblem) {
    assert!(TOY.contains(from), "{from:?} is not in the toy file");
    match TsFile::parse(&TOY.replacen(from, to, 1), "toy.ts").unwrap_err() {
        DataError::Ts {
            file,
            line,
            problem,
        } => {
            assert_eq!(file, "toy.ts");
            (line, problem)
        }
        other => panic!("not an error of the format: {other}"),
    }
}

#[test]
fn values_are_read_step_by_step() {
    for text in [
        TOY.to_owned(),
        TOY.replace('\n', "\r\n"),
        TOY.replace(',', " , "),
    ] {
        let file = TsFile::parse(&text, "toy.ts").unwrap();
        assert_eq!(file.problem_name, "Toy");
        assert_eq!(file.sequences.classes(), ["up", "down"]);
        let [first, second] = file.sequences.sequences() else {
            panic!("two sequences");
        };
        assert_eq!(
            (&first.values[..], first.label),
            (&[1.0, 4.0, 2.0, 5.0, 3.0, 6.0][..], 0)
        );
        assert_eq!((second.time(), second.channels, second.label), (2, 2, 1));
        assert_eq!((second.values[0], second.values[2]), (7.0, -80.0));
        assert!(second.values[1].is_nan() && second.values[3].is_nan());
    }
}

#[test]
fn a_short_header_is_enough() {
    let file = TsFile::parse("@CLASSLABEL true a\n@DATA\n1:a", "short.ts").unwrap();
    assert_eq!(file.sequences.sequences()[0].values, [1.0]);
}

#[test]
fn a_bad_header_is_named() {
    let header = |key, expected, found: &str| TsProblem::Header {
        key,
        expected,
        found: found.to_owned(),
    };
    let bool = "true or false";
    let number = "a number of at least 1";
    let names = "true and the names of the classes, each once";
    let unsupported = |what| TsProblem::Unsupported { what };
    let key = "@problem".to_owned();
    for (from, to, line, expected) in [
        ("@problemName", "@problem", 2, TsProblem::Key { key }),
        ("@problemName", "problemName", 2, TsProblem::DataExpected),
        ("Stamps false", "Stamps true", 3, unsupported("time stamps")),
        ("Stamps false", "Stamps", 3, header("@timeStamps", bool, "")),
        (
            "missing true",
            "missing yes",
            4,
            header("@missing", bool, "yes"),
        ),
        (
            "false\n@dim",
            "0\n@dim",
            5,
            header("@univariate", bool, "0"),
        ),
        (
            "dimensions 2",
            "dimensions 0",
            6,
            header("@dimensions", number, "0"),
        ),
        (
            "dimensions 2",
            "dimensions -2",
            6,
            header("@dimensions", number, "-2"),
        ),
        (
            "@equalLength false",
            "@seriesLength x",
            7,
            header("@seriesLength", number, "x"),
        ),
        (
            "@equalLength false",
            "@targetLabel true",
            7,
            unsupported("regression targets"),
        ),
        (
            "true up down",
            "true",
            8,
            header("@classLabel", names, "true"),
        ),
        (
            "true up down",
            "true a b a",
            8,
            header("@classLabel", names, "true a b a"),
        ),
        (
            "true up down",
            "false",
            10,
            unsupported("files without class labels"),
        ),
    ] {
        assert_eq!(problem(from, to), (line, expected), "{to:?}");
    }
}

#[test]
fn a_bad_sequence_is_named() {
    let value = |found: &str| TsProblem::Value {
        channel: 1,
        step: 2,
        found: found.to_owned(),
    };
    let label = |found: &str| TsProblem::Label {
        found: found.to_owned(),
    };
    let channels = |expected, found| TsProblem::Channels { expected, found };
    for (from, to, line, expected) in [
        ("5,6", "5,", 11, value("")),
        ("5,6", "5,six", 11, value("six")),
        ("5,6", "5,inf", 11, value("inf")),
        ("5,6", "5,1e39", 11, value("1e39")),
        ("6:up", "6:", 11, label("")),
        ("6:up", "6:left", 11, label("left")),
        ("6:up", "6:up:up", 11, channels(2, 3)),
        ("1,2,3:4,5,6:up", "up", 11, channels(2, 0)),
        (":?,NaN", "", 12, channels(2, 1)),
    ] {
        assert_eq!(problem(from, to), (line, expected), "{to:?}");
    }
    let (channel, expected, found) = (1, 3, 2);
    let length = TsProblem::ChannelLength {
        channel,
        expected,
        found,
    };
    assert_eq!(problem("4,5,6", "4,5"), (11, length));
    let (expected, found) = (3, 2);
    let length = TsProblem::Length { expected, found };
    assert_eq!(problem("Length false", "Length true"), (12, length));
    let (channel, step) = (1, 0);
    let missing = TsProblem::Missing { channel, step };
    assert_eq!(problem("missing true", "missing false"), (12, missing));
}

#[test]
fn without_a_header_the_first_sequence_sets_the_channels() {
    let text = "@classLabel true a\n@data\n1:2:a\n3:a\n";
    let problem = TsProblem::Channels {
        expected: 2,
        found: 1,
    };
    let (file, line) = ("x.ts".to_owned(), 4);
    let error = TsFile::parse(text, "x.ts").unwrap_err();
    assert_eq!(
        error,
        DataError::Ts {
            file,
            line,
            problem
        }
    );
}

#[test]
fn a_file_that_ends_early_is_refused() {
    let header = &TOY[..TOY.find("1,2,3").unwrap()];
    for (text, last) in [("", 1), ("# nothing\n\n", 2), (header, 10)] {
        let (file, line) = ("x.ts".to_owned(), last);
        let problem = TsProblem::NoSequence;
        let error = TsFile::parse(text, "x.ts").unwrap_err();
        assert_eq!(
            error,
            DataError::Ts {
                file,
                line,
                problem
            }
        );
    }
}

/// Characters and words that matter to the format, in any order.
fn nearly_a_file() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        "@(problemName|missing|univariate|dimensions|equalLength|seriesLength|classLabel)",
        "[ \n:,?#@.e-]",
        "(true|false|a|b|[0-9]{1,25}|NaN|@data\n)",
        any::<char>().prop_map(String::from),
    ];
    prop::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn bad_input_gives_an_error_with_a_line_of_the_file(
        text in prop_oneof![any::<String>(), nearly_a_file()],
        prefix in prop_oneof![Just(""), Just("@classLabel true a b\n@data\n")],
    ) {
        let text = format!("{prefix}{text}");
        match TsFile::parse(&text, "x.ts") {
            Err(DataError::Ts { line, .. }) => {
                prop_assert!((1..=text.lines().count().max(1)).contains(&line));
            }
            Err(other) => prop_assert!(false, "{other}"),
            Ok(file) => prop_assert!(!file.sequences.sequences().is_empty()),
        }
    }

    #[test]
    fn a_damaged_file_does_not_panic(
        at in 0..TOY.len(), until in 0..TOY.len(), with in "[ \n:,?#@0-9a-z]{0,3}",
    ) {
        let mut text = TOY.to_owned();
        text.replace_range(at.min(until)..at.max(until), &with);
        if let Err(error) = TsFile::parse(&text, "x.ts") {
            prop_assert!(error.to_string().starts_with("x.ts:"), "{}", error);
        }
    }

    #[test]
    fn what_is_written_is_read(
        (channels, sequences) in (1_usize..4).prop_flat_map(|channels| {
            let step = prop::collection::vec(-1e30_f32..1e30, channels);
            let steps = prop::collection::vec(step, 1..6);
            (Just(channels), prop::collection::vec((steps, 0_usize..2), 1..5))
        }),
    ) {
        let mut text = "@classLabel true a b\n@data\n".to_owned();
        for (steps, label) in &sequences {
            for channel in 0..channels {
                let values: Vec<_> = steps.iter().map(|step| step[channel].to_string()).collect();
                text += &format!("{}:", values.join(","));
            }
            text += &format!("{}\n", ["a", "b"][*label]);
        }
        let file = TsFile::parse(&text, "x.ts").unwrap();
        let written = sequences.into_iter().map(|(steps, label)| Sequence {
            values: steps.concat(),
            channels,
            label,
        });
        prop_assert_eq!(file.sequences.sequences(), written.collect::<Vec<_>>());
    }
}

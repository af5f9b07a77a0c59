//! Tests of the readers.

use serde_json::json;

use super::*;

#[derive(Debug, PartialEq, Deserialize)]
struct Point {
    x: i64,
    #[serde(default)]
    y: Option<f64>,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(rename = "tagged by shape", rename_all = "snake_case")]
enum Shape {
    Nothing,
    Dot(Point),
    Line { from: Point, to: Box<Point> },
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Wish {
    Any,
    These(Vec<Shape>),
}

/// The same from text and from a value.
fn both<T: DeserializeOwned + PartialEq + std::fmt::Debug>(value: &Value) -> Result<T, String> {
    let of_value = read(value).map_err(|error| error.to_string());
    let of_text = read_text(&value.to_string()).map_err(|error| error.to_string());
    assert_eq!(of_value, of_text);
    of_value
}

#[test]
fn a_tag_tells_variants_apart() {
    let read = both(&json!([
        {"shape": "nothing", "newer": 1},
        {"x": 1, "shape": "dot", "y": 2.5},
        {"shape": "line", "to": {"x": 3}, "from": {"x": 2, "y": null}},
    ]));
    let point = |x, y| Point { x, y };
    let line = Shape::Line {
        from: point(2, None),
        to: Box::new(point(3, None)),
    };
    assert_eq!(
        read,
        Ok(vec![Shape::Nothing, Shape::Dot(point(1, Some(2.5))), line])
    );
    for (wrong, part) in [
        (json!({"x": 1}), "missing field `shape`"),
        (json!({"shape": 1}), "shape must be a string"),
        (json!({"shape": "star"}), "unknown variant `star`"),
        (json!({"shape": "dot"}), "missing field `x`"),
        (json!("nothing"), "invalid type: string"),
    ] {
        let error = both::<Shape>(&wrong).unwrap_err();
        assert!(error.contains(part), "{wrong}: {error}");
    }
}

#[derive(Debug, PartialEq, Deserialize)]
struct Inner(Option<i64>);

#[derive(Debug, PartialEq, Deserialize)]
struct Mixed {
    first: i64,
    perhaps: Option<i64>,
    #[serde(default = "seven")]
    seven: i64,
    #[serde(default)]
    list: Vec<Mixed>,
    inner: Inner,
}

fn seven() -> i64 {
    7
}

#[test]
fn fields_come_in_any_order_and_may_be_absent() {
    let mixed = |text: &str| read_text::<Mixed>(text).map_err(|error| error.to_string());
    let small = || Mixed {
        first: 1,
        perhaps: None,
        seven: 7,
        list: Vec::new(),
        inner: Inner(None),
    };
    assert_eq!(mixed(r#"{"inner": null, "first": 1}"#), Ok(small()));
    let nested = r#"{"list": [{"first": 1, "inner": null}], "seven": 3, "newer": 0, "inner": 4,
        "first": 2, "newer": 1, "perhaps": 5}"#;
    let wanted = Mixed {
        first: 2,
        perhaps: Some(5),
        seven: 3,
        list: vec![small()],
        inner: Inner(Some(4)),
    };
    assert_eq!(mixed(nested), Ok(wanted));
    for (wrong, error) in [
        (r#"{"first": 1}"#, "missing field `inner`"),
        (r#"{"inner": null, "list": []}"#, "missing field `first`"),
        (
            r#"{"first": 1, "inner": 2, "inner": 2}"#,
            "duplicate field `inner`",
        ),
        (
            r#"{"first": 1, "inner": 2, "list": {}}"#,
            "invalid type: map, expected a sequence",
        ),
        (
            r#"{"first": 1, "inner": 2, "seven": null}"#,
            "invalid type: null, expected i64",
        ),
    ] {
        assert_eq!(mixed(wrong), Err(error.into()), "{wrong}");
    }
    let (_, notes) = read_noting::<Mixed>(&json!({"first": 1, "list": [{"first": 1}]}));
    assert_eq!(notes.wrong, "/list/0");
}

#[test]
fn what_is_odd_is_noted_with_its_place() {
    let value = json!({"these": [{"shape": "dot", "x": 1, "z/": 0}, {"shape": "dot", "x": "1"}]});
    let (read, notes) = read_noting::<Wish>(&value);
    assert!(read.is_err());
    assert_eq!(notes.unknown, ["/these/0/z~1"]);
    assert_eq!(notes.wrong, "/these/1/x");
    assert_eq!(both(&json!("any")), Ok(Wish::Any));
}

#[test]
fn each_kind_is_itself_alone() {
    assert!(both::<Point>(&json!([1, 2.0])).is_err());
    assert!(both::<Point>(&json!({"x": 1.0})).is_err());
    assert!(both::<Point>(&json!({"x": true})).is_err());
    assert!(both::<Point>(&Value::Null).is_err());
    assert!(both::<Vec<i64>>(&json!({})).is_err());
    assert!(both::<(i64, i64)>(&json!([1, 2, 3])).is_err());
    assert!(both::<String>(&json!(1)).is_err());
    assert_eq!(both::<f64>(&json!(1)), Ok(1.0));
    assert_eq!(both::<Option<u8>>(&json!(256)).ok(), None);
    assert_eq!(both::<Option<u8>>(&Value::Null), Ok(None));
}

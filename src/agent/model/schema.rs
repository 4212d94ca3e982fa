//! JSON schemas of functions' parameters: which ones are taken, and whether arguments are what one asks for; pure.
//!
//! A model is asked for arguments that fit the schema and is not bound to give them. What is wrong is said to the model, which
//! tries again. The keywords that matter for arguments are checked; all others are the model's business.

use serde_json::{Map, Value};

/// The deepest schema; arguments may be no deeper either.
const MAX_DEPTH: usize = 16;

/// Whether this is a schema of parameters. The error says what to write instead.
pub fn check_schema(schema: &Value) -> Result<(), String> {
    if schema["type"] != "object" {
        return Err("give a JSON schema of the type \"object\"".to_owned());
    }
    check_part(schema, 0)
}

fn check_part(schema: &Value, depth: usize) -> Result<(), String> {
    let Some(schema) = schema.as_object() else { return Err("give each property a schema, as a table".to_owned()) };
    if depth > MAX_DEPTH {
        return Err(format!("give a schema of at most {MAX_DEPTH} levels"));
    }
    if let Some(name) = schema.get("type").into_iter().flat_map(types_of).find(|name| !TYPES.contains(name)) {
        return Err(format!("\"{name}\" is no type of JSON schema: give one of \"{}\"", TYPES.join("\", \"")));
    }
    let parts = schema.get("properties").and_then(Value::as_object).into_iter().flat_map(Map::values);
    parts.chain(schema.get("items")).try_for_each(|part| check_part(part, depth + 1))
}

const TYPES: [&str; 7] = ["object", "array", "string", "integer", "number", "boolean", "null"];

/// Whether these arguments are what the schema asks for. The error is a sentence for the model.
pub fn check(schema: &Value, arguments: &Value) -> Result<(), String> {
    check_value(schema, arguments, "arguments", 0)
}

fn check_value(schema: &Value, value: &Value, place: &str, depth: usize) -> Result<(), String> {
    if depth > MAX_DEPTH {
        return Err(format!("{place}: too deep"));
    }
    let mut types = schema.get("type").into_iter().flat_map(types_of).peekable();
    if types.peek().is_some() && !types.clone().any(|name| is_of(value, name)) {
        return Err(format!("{place}: give {}", types.collect::<Vec<_>>().join(" or ")));
    }
    if let Some(allowed) = schema["enum"].as_array().filter(|allowed| !allowed.contains(value)) {
        return Err(format!("{place}: give one of {}", Value::from(allowed.clone())));
    }
    if schema.get("const").is_some_and(|wanted| wanted != value) {
        return Err(format!("{place}: give {}", schema["const"]));
    }
    match value {
        Value::Object(members) => check_members(schema, members, place, depth),
        Value::Array(items) => {
            within(schema, ["minItems", "maxItems"], items.len() as f64, &format!("{place}: give"), "items")?;
            let of_item = &schema["items"];
            let mut items = items.iter().enumerate();
            items.try_for_each(|(index, item)| check_value(of_item, item, &format!("{place}[{index}]"), depth + 1))
        }
        Value::String(text) => {
            let length = text.chars().count() as f64;
            within(schema, ["minLength", "maxLength"], length, &format!("{place}: give"), "characters")
        }
        Value::Number(number) => {
            let number = number.as_f64().unwrap_or(f64::NAN);
            within(schema, ["minimum", "maximum"], number, &format!("{place}: give"), "")
        }
        Value::Null | Value::Bool(_) => Ok(()),
    }
}

fn check_members(schema: &Value, members: &Map<String, Value>, place: &str, depth: usize) -> Result<(), String> {
    let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
    if let Some(missing) = required.into_iter().find(|name| !members.contains_key(*name)) {
        return Err(format!("{place}.{missing}: it is missing"));
    }
    for (name, value) in members {
        match schema["properties"].get(name) {
            Some(part) => check_value(part, value, &format!("{place}.{name}"), depth + 1)?,
            None if schema["additionalProperties"] == false => {
                return Err(format!("{place}.{name}: there is no such parameter"));
            }
            None => {}
        }
    }
    Ok(())
}

/// `bounds` are the keywords of the least and the most.
fn within(schema: &Value, bounds: [&str; 2], found: f64, place: &str, unit: &str) -> Result<(), String> {
    let [least, most] = bounds.map(|bound| schema[bound].as_f64());
    if let Some(least) = least.filter(|least| found < *least) {
        return Err(format!("{place} at least {least} {unit}").trim_end().to_owned());
    }
    if let Some(most) = most.filter(|most| found > *most) {
        return Err(format!("{place} at most {most} {unit}").trim_end().to_owned());
    }
    Ok(())
}

/// `type` is one name or a list of them.
fn types_of(kind: &Value) -> impl Iterator<Item = &str> + Clone {
    kind.as_array().map_or(std::slice::from_ref(kind), Vec::as_slice).iter().filter_map(Value::as_str)
}

fn is_of(value: &Value, kind: &str) -> bool {
    match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        // 3.0 is an integer too (JSON Schema, 6.1.1).
        "integer" => value.as_f64().is_some_and(|number| number.fract() == 0.0),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        _ => false,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn order() -> Value {
        json!({
            "type": "object", "required": ["number"], "additionalProperties": false,
            "properties": {
                "number": {"type": "string", "minLength": 3, "maxLength": 5, "description": "on the invoice"},
                "what": {"enum": ["status", "cancel"]},
                "pieces": {"type": "integer", "minimum": 1, "maximum": 9},
                "lines": {"type": "array", "maxItems": 2, "items": {"type": ["string", "null"]}},
            },
        })
    }

    #[test]
    fn arguments_are_what_the_schema_asks_for() {
        let schema = order();
        assert_eq!(check_schema(&schema), Ok(()));
        assert_eq!(
            check(&schema, &json!({"number": "A-17", "what": "status", "pieces": 2.0, "lines": ["x", null]})),
            Ok(())
        );
        for (arguments, wanted) in [
            (json!(null), "arguments: give object"),
            (json!(["A-17"]), "arguments: give object"),
            (json!({}), "arguments.number: it is missing"),
            (json!({"number": 17}), "arguments.number: give string"),
            (json!({"number": "é"}), "arguments.number: give at least 3 characters"),
            (json!({"number": "A-17", "what": "eat"}), r#"arguments.what: give one of ["status","cancel"]"#),
            (json!({"number": "A-17", "pieces": 1.5}), "arguments.pieces: give integer"),
            (json!({"number": "A-17", "pieces": 10}), "arguments.pieces: give at most 9"),
            (json!({"number": "A-17", "lines": ["a", "b", "c"]}), "arguments.lines: give at most 2 items"),
            (json!({"number": "A-17", "lines": [1]}), "arguments.lines[0]: give string or null"),
            (json!({"number": "A-17", "colour": "red"}), "arguments.colour: there is no such parameter"),
        ] {
            assert_eq!(check(&schema, &arguments), Err(wanted.to_owned()));
        }
    }

    #[test]
    fn what_is_no_schema_is_told() {
        assert!(check_schema(&json!({"type": "string"})).is_err());
        assert!(check_schema(&json!({"type": "object", "properties": {"a": "string"}})).is_err());
        let wrong = check_schema(&json!({"type": "object", "properties": {"a": {"type": "text"}}}));
        assert!(wrong.unwrap_err().starts_with("\"text\" is no type"));
        let mut deep = json!({"type": "string"});
        for _ in 0..=MAX_DEPTH {
            deep = json!({"type": "object", "properties": {"a": deep}});
        }
        assert!(check_schema(&deep).unwrap_err().contains("levels"));
    }

    /// Any JSON: a schema, or the arguments of a model.
    pub(in crate::agent::model) fn anything() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "[a-z]{0,6}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("number|what|pieces|lines|type|enum|[a-z]{1,4}", inner, 0..4)
                    .prop_map(|members| members.into_iter().collect()),
            ]
        })
    }

    proptest! {
        /// Neither is ours: the operator writes the one and a model the other.
        #[test]
        fn no_schema_and_no_arguments_make_it_panic(schema in anything(), arguments in anything()) {
            let _ = check_schema(&schema);
            let _ = check(&schema, &arguments);
            if check(&order(), &arguments).is_ok() {
                prop_assert!(arguments["number"].is_string());
            }
        }
    }
}

//! Bodies of the API: each is declared once, and is from there a Rust type, its JSON, and its schema in the OpenAPI
//! document.

use serde_json::{Map, Value, json};

/// Something with a JSON Schema.
pub trait Described {
    /// As it stands where it is used; what has a name of its own is entered into `all`.
    fn schema(all: &mut Map<String, Value>) -> Value;
    /// Whether a body may leave it out.
    const OPTIONAL: bool = false;
}

impl Described for String {
    fn schema(_: &mut Map<String, Value>) -> Value {
        json!({ "type": "string" })
    }
}

impl Described for bool {
    fn schema(_: &mut Map<String, Value>) -> Value {
        json!({ "type": "boolean" })
    }
}

impl Described for Value {
    fn schema(_: &mut Map<String, Value>) -> Value {
        json!({ "type": "object" })
    }
}

impl Described for u64 {
    fn schema(_: &mut Map<String, Value>) -> Value {
        json!({ "type": "integer", "minimum": 0 })
    }
}

impl Described for u32 {
    fn schema(_: &mut Map<String, Value>) -> Value {
        json!({ "type": "integer", "minimum": 0, "maximum": u32::MAX })
    }
}

impl Described for f64 {
    fn schema(_: &mut Map<String, Value>) -> Value {
        json!({ "type": "number" })
    }
}

impl<T: Described> Described for Vec<T> {
    fn schema(all: &mut Map<String, Value>) -> Value {
        json!({ "type": "array", "items": T::schema(all) })
    }
}

impl<T: Described> Described for Option<T> {
    fn schema(all: &mut Map<String, Value>) -> Value {
        json!({ "anyOf": [T::schema(all), { "type": "null" }] })
    }
    const OPTIONAL: bool = true;
}

/// Declares a body: what it is, then its fields with what they mean. A request refuses fields it does not know, and
/// its optional fields may be left out; an answer has all of its fields.
macro_rules! body {
    (request $name:ident : $about:literal { $($field:ident : $kind:ty = $says:literal),* $(,)? }) => {
        #[derive(Clone, Debug, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct $name { $(pub $field: $kind),* }
        $crate::api::rest::schema::body!(@schema $name, $about, true, $($field : $kind = $says),*);
    };
    (answer $name:ident : $about:literal { $($field:ident : $kind:ty = $says:literal),* $(,)? }) => {
        #[derive(Clone, Debug, serde::Serialize)]
        pub struct $name { $(pub $field: $kind),* }
        $crate::api::rest::schema::body!(@schema $name, $about, false, $($field : $kind = $says),*);
    };
    (@schema $name:ident, $about:literal, $is_request:literal, $($field:ident : $kind:ty = $says:literal),*) => {
        impl $crate::api::rest::schema::Described for $name {
            fn schema(all: &mut serde_json::Map<String, serde_json::Value>) -> serde_json::Value {
                let name = stringify!($name);
                if !all.contains_key(name) {
                    // Entered first: nobody goes round in circles.
                    all.insert(name.to_owned(), serde_json::Value::Null);
                    let fields = [$({
                        let kind = <$kind as $crate::api::rest::schema::Described>::schema(all);
                        let optional = <$kind as $crate::api::rest::schema::Described>::OPTIONAL;
                        (stringify!($field).trim_start_matches("r#"), $says, kind, optional)
                    }),*];
                    let described = $crate::api::rest::schema::object($about, $is_request, fields);
                    all.insert(name.to_owned(), described);
                }
                serde_json::json!({ "$ref": format!("#/components/schemas/{name}") })
            }
        }
    };
}

pub(super) use body;

pub fn object<'a>(
    about: &str,
    is_request: bool,
    fields: impl IntoIterator<Item = (&'a str, &'a str, Value, bool)>,
) -> Value {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for (name, says, mut schema, optional) in fields {
        if let Some(schema) = schema.as_object_mut() {
            schema.insert("description".to_owned(), says.into());
        }
        properties.insert(name.to_owned(), schema);
        if !(is_request && optional) {
            required.push(Value::from(name));
        }
    }
    json!({
        "type": "object",
        "description": about,
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}

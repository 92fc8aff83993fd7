//! Answers to challenges as a controller tells its gateways: a ConfigMap. None of it is secret: it is what everybody may
//! ask for.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};

use super::Answer;
use crate::resources::{ObjectKey, ResourceSet};

/// The key of the document.
pub const CHALLENGES: &str = "/ConfigMap/tombolo-system/acme-challenges";
const NAMESPACE: &str = "tombolo-system";
const NAME: &str = "acme-challenges";

/// The document; none where there is nothing to tell.
pub fn answers_document(answers: &[Answer]) -> Option<String> {
    let mut data = Map::new();
    for answer in answers {
        match answer {
            Answer::Http { token, body } => data.insert(format!("http.{token}"), Value::from(&**body)),
            Answer::Tls { name, digest } => {
                data.insert(format!("tls.{name}"), STANDARD.encode(digest).into())
            }
        };
    }
    let metadata = json!({ "namespace": NAMESPACE, "name": NAME });
    let document = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data });
    (!answers.is_empty()).then(|| document.to_string())
}

/// What a controller has told.
pub fn told_answers(resources: &ResourceSet) -> Vec<Answer> {
    let map = resources.config_maps.get(&ObjectKey::new(NAMESPACE, NAME));
    let data = map.iter().flat_map(|map| &map.spec.data);
    let read = |(key, value): (&String, &String)| {
        if let Some(token) = key.strip_prefix("http.") {
            return Some(Answer::Http { token: token.into(), body: value.as_str().into() });
        }
        let digest = STANDARD.decode(value).ok()?.try_into().ok()?;
        Some(Answer::Tls { name: key.strip_prefix("tls.")?.into(), digest })
    };
    data.filter_map(read).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{acme::Challenges, resources::parse_json};

    #[test]
    fn a_gateway_gives_what_the_controller_tells() {
        let page = Answer::Http { token: "abc-_1".into(), body: "abc.def".into() };
        let certificate = Answer::Tls { name: "a.example".into(), digest: [7; 32] };
        let json = answers_document(&[page.clone(), certificate.clone()]).unwrap();
        let document = parse_json(CHALLENGES, &json).unwrap();
        assert_eq!(&**document.key(), CHALLENGES);
        let mut resources = ResourceSet::default();
        resources.insert(document);
        let told = told_answers(&resources);
        assert_eq!(told, [page, certificate]);
        let challenges = Challenges::default();
        challenges.follow(&told);
        assert_eq!(challenges.page("/.well-known/acme-challenge/abc-_1").as_deref(), Some("abc.def"));
        assert!(challenges.tls("a.example").is_some());
        challenges.follow(&[]);
        assert!(challenges.page("/.well-known/acme-challenge/abc-_1").is_none());
        assert!(challenges.tls("a.example").is_none());
        assert_eq!(answers_document(&[]), None);
    }
}

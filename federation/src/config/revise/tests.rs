use super::*;

fn namespace(name: &str, label: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Namespace\nmetadata: {{ name: {name}, labels: {{ l: \"{label}\" }} }}\n"
    )
}

fn config_map(namespace: &str, name: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: {name}, namespace: {namespace} }}\ndata: {{ a: b }}\n"
    )
}

fn source(text: &str) -> Vec<Source> {
    vec![Source { name: "a.yaml".into(), text: text.into() }]
}

fn by(action: &str) -> By {
    By { author: "me".into(), action: action.into(), when_unix: 7 }
}

fn named(kind: &str, namespace: &str, name: &str) -> Vec<Named> {
    vec![Named { kind: kind.into(), namespace: namespace.into(), name: name.into() }]
}

fn adopted(documents: &Documents, proposal: Proposal) -> Documents {
    let mut next = documents.clone();
    next.adopt(proposal);
    next
}

fn applied(documents: &Documents, text: &str) -> Documents {
    adopted(documents, documents.apply(&source(text), &Prune::Nothing, &by("apply")).unwrap())
}

fn in_files(documents: &Documents, text: &str) -> Documents {
    adopted(documents, documents.follow(&source(text), true, 1).0.unwrap())
}

fn keys(generation: &Generation) -> Vec<&str> {
    generation.documents.keys().map(String::as_str).collect()
}

fn follower() -> Documents {
    Documents::restore(Generation::default(), true).0
}

fn said(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

#[test]
fn prune_takes_what_was_applied_and_is_not_in_the_texts_and_nothing_of_the_files() {
    let files = in_files(&follower(), &namespace("filed", "1"));
    let text = namespace("a", "1") + &config_map("a", "x") + &config_map("b", "x");
    let documents = applied(&files, &text);
    let keep = source(&namespace("a", "1"));
    let one = documents.apply(&keep, &Prune::In(["b".to_owned()].into()), &by("apply")).unwrap();
    assert_eq!(one.told, ["deleted configmap b/x", "unchanged namespace a"]);
    assert_eq!(one.generation.changes, ["deleted configmap b/x"]);
    let all = documents.apply(&keep, &Prune::Everywhere, &by("apply --prune")).unwrap();
    assert_eq!(keys(&all.generation), ["/Namespace//a", "/Namespace//filed"]);
    assert_eq!((all.generation.number, all.generation.action.as_str()), (3, "apply --prune"));
    assert_eq!(all.resources.len(), 2);
}

#[test]
fn prune_with_nothing_to_keep_or_with_a_problem_deletes_nothing() {
    let documents = applied(&Documents::default(), &namespace("a", "1"));
    let problems = documents.apply(&source(""), &Prune::Everywhere, &by("apply")).unwrap_err();
    assert!(said(&problems).contains("tombolo delete"), "{problems:?}");
    let bad = "apiVersion: v1\nkind: Namespace\nmetadata: { nam: c }\n";
    assert!(documents.apply(&source(bad), &Prune::Everywhere, &by("apply")).is_err());
}

#[test]
fn delete_takes_what_is_named_by_kind_or_by_file() {
    let text = namespace("a", "1")
        + &config_map("default", "x")
        + &config_map("shop", "x")
        + &config_map("shop", "y");
    let documents = applied(&Documents::default(), &text);
    let deleted = |named: &[Named], text: &str| {
        documents.delete(named, &source(text), false, &by("delete")).map(|proposal| proposal.told)
    };
    assert_eq!(deleted(&named("namespaces", "", "a"), "").unwrap(), ["deleted namespace a"]);
    assert_eq!(deleted(&named("ConfigMap", "", "x"), "").unwrap(), ["deleted configmap default/x"]);
    assert_eq!(deleted(&named("configmap", "shop", "x"), "").unwrap(), ["deleted configmap shop/x"]);
    let both = deleted(&named("configmap", "shop", "x"), &config_map("shop", "y")).unwrap();
    assert_eq!(both, ["deleted configmap shop/x", "deleted configmap shop/y"]);
}

#[test]
fn delete_is_all_or_nothing_and_says_where_it_is_instead() {
    let documents = applied(&Documents::default(), &config_map("shop", "x"));
    let refused = |named: &[Named], text: &str| {
        said(&documents.delete(named, &source(text), false, &by("delete")).unwrap_err())
    };
    let said_so = refused(&named("configmap", "", "x"), &namespace("b", "1"));
    assert!(said_so.contains("--namespace shop") && said_so.contains("there is no namespace b"), "{said_so}");
    assert!(refused(&named("all", "shop", "x"), "").contains("no kind"));
    for (kind, said_so) in [("namespace", "no namespace \"b\""), ("configmap", "in namespace default")] {
        let refused = refused(&named(kind, "", "b"), "");
        assert!(refused.contains(said_so), "{refused}");
        assert_eq!(refused.contains("in namespace"), kind == "configmap", "{refused}");
    }
    let fine =
        documents.delete(&named("configmap", "", "x"), &source(&namespace("b", "1")), true, &by("delete"));
    let fine = fine.unwrap();
    assert_eq!((fine.told.len(), &fine.generation), (0, documents.generation()));
}

#[test]
fn what_comes_from_files_is_not_deleted() {
    let documents = in_files(&follower(), &namespace("a", "1"));
    for (named, text) in [(named("namespace", "", "a"), String::new()), (Vec::new(), namespace("a", "1"))] {
        let problems = documents.delete(&named, &source(&text), true, &by("delete")).unwrap_err();
        assert!(said(&problems).contains("--config"), "{problems:?}");
    }
}

#[test]
fn rolling_back_makes_a_new_generation_with_the_documents_of_the_old_one() {
    let first = applied(&Documents::default(), &(namespace("a", "1") + &namespace("gone", "1")));
    let old = first.generation().clone();
    let second = applied(&first, &(namespace("a", "2") + &namespace("new", "1")));
    let third = second.delete(&named("namespace", "", "gone"), &[], false, &by("delete")).unwrap();
    let third = adopted(&second, third);
    let back = third.roll_back(&old, &by("rollback to 1")).unwrap();
    assert_eq!(back.told, ["deleted namespace new", "configured namespace a", "created namespace gone"]);
    assert_eq!(back.generation.documents, old.documents);
    assert_eq!((back.generation.number, back.generation.action.as_str()), (4, "rollback to 1"));
    // And the parsed documents are those too, not only their texts.
    let json: Vec<String> =
        back.resources.documents().map(|(_, document)| document.json().to_owned()).collect();
    assert_eq!(json, old.documents.values().cloned().collect::<Vec<_>>());
    let again = adopted(&third, back);
    let same = again.roll_back(&old, &by("rollback to 1")).unwrap();
    assert_eq!((&same.generation, same.told.len()), (again.generation(), 0));
    // To before the first: everything goes.
    let empty = again.roll_back(&Generation::default(), &by("rollback to 0")).unwrap();
    assert!(empty.resources.is_empty() && empty.generation.documents.is_empty());
}

#[test]
fn rolling_back_leaves_to_the_files_what_is_theirs() {
    let first = in_files(&follower(), &(namespace("a", "1") + &namespace("dropped", "1")));
    let first = applied(&first, &namespace("mine", "1"));
    let old = first.generation().clone();
    let later = in_files(&first, &namespace("a", "2"));
    let later = applied(&later, &namespace("mine", "2"));
    let back = later.roll_back(&old, &by("rollback")).unwrap();
    let told =
        ["configured namespace mine", "left namespace a to the files", "left namespace dropped to the files"];
    assert_eq!(back.told, told);
    assert_eq!(keys(&back.generation), ["/Namespace//a", "/Namespace//mine"]);
    // Without files to follow, nothing is theirs any more.
    let (free, _) = Documents::restore(later.generation().clone(), false);
    let back = free.roll_back(&old, &by("rollback")).unwrap();
    assert_eq!(back.generation.documents, old.documents);
}

#[test]
fn a_generation_that_this_version_refuses_is_not_gone_back_to() {
    let documents = applied(&Documents::default(), &namespace("a", "1"));
    let mut old = documents.generation().clone();
    old.documents
        .insert("/Namespace//b".into(), r#"{"apiVersion":"v1","kind":"Namespace","metadata":{}}"#.into());
    let problems = documents.roll_back(&old, &by("rollback")).unwrap_err();
    assert!(said(&problems).contains("generation 1"), "{problems:?}");
}

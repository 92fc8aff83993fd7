//! What operators do to configuration, and what they ask of its generations.

use std::{collections::BTreeMap, sync::Arc};

use tokio::sync::oneshot;
use tombolo_core::resources::{Problem, Source};
use tombolo_proto::v1::{
    ApplyRequest, ApplyResponse, DeleteRequest, DiffRequest, DiffResponse, HistoryRequest, HistoryResponse,
    RollbackRequest, apply_request::File, diff_response, history_response,
};
use tonic::Status;

use super::{internal, refused};
use crate::{
    config::{By, Documents, Generation, MAX_FIELDS, Named, ObjectDifference, Proposal, Prune, difference},
    state::State,
    store::{History, StoreError, Summary},
};

/// Files, or names, of one call; more are refused.
const MAX_FILES: usize = 10_000;
/// Generations that are listed at most.
const MAX_LISTED: u32 = 100;
/// Characters of an author's name; the rest is cut.
const MAX_AUTHOR: usize = 128;

/// A generation's documents, by key.
type Kept = BTreeMap<String, String>;

/// Puts documents in force.
pub(super) async fn apply(state: &State, request: ApplyRequest) -> Result<ApplyResponse, Status> {
    let action = if request.prune { "apply --prune" } else { "apply" };
    let by = by(state, &request.author, action);
    let how = How { dry_run: request.dry_run, if_generation: request.if_generation };
    let (sources, prune) = texts(request)?;
    change(state, how, move |documents| documents.apply(&sources, &prune, &by)).await
}

/// Takes documents out.
pub(super) async fn delete(state: &State, request: DeleteRequest) -> Result<ApplyResponse, Status> {
    let DeleteRequest { named, files, author, dry_run, missing_is_fine, if_generation } = request;
    if named.len() > MAX_FILES {
        return Err(refused(format!("more than {MAX_FILES} names")));
    }
    if named.is_empty() && files.is_empty() {
        return Err(refused("nothing is named: say a kind and a name, or a file"));
    }
    let named: Vec<Named> =
        named.into_iter().map(|n| Named { kind: n.kind, namespace: n.namespace, name: n.name }).collect();
    let (sources, by) = (sources(files)?, by(state, &author, "delete"));
    let how = How { dry_run, if_generation };
    change(state, how, move |documents| documents.delete(&named, &sources, missing_is_fine, &by)).await
}

/// Puts a kept generation's documents in force again.
pub(super) async fn roll_back(state: &State, request: RollbackRequest) -> Result<ApplyResponse, Status> {
    let RollbackRequest { generation, author, dry_run, if_generation } = request;
    let in_force = state.documents();
    let history = state.history().await.map_err(internal)?;
    let found = reading(move || match generation {
        Some(number) => kept(&history, &in_force, number),
        None => {
            let before = before(&history, in_force.generation().number)?;
            kept(&history, &in_force, before)
        }
    });
    let to = found.await?;
    let by = by(state, &author, &format!("rollback to {}", to.number));
    let how = How { dry_run, if_generation };
    change(state, how, move |documents| documents.roll_back(&to, &by)).await
}

/// Lists generations.
pub(super) async fn history(state: &State, request: HistoryRequest) -> Result<HistoryResponse, Status> {
    let limit = if request.limit == 0 { MAX_LISTED } else { request.limit.min(MAX_LISTED) };
    let in_force = state.documents();
    let number = in_force.generation().number;
    if number == 0 {
        return Ok(HistoryResponse::default());
    }
    let history = state.history().await.map_err(internal)?;
    // The one in force is known even where the disk did not take it.
    let older = reading(move || Ok(history.before(number, limit as usize - 1)?)).await?;
    let all = std::iter::once(Summary::from(in_force.generation())).chain(older);
    let listed = |summary: Summary| history_response::Generation {
        number: summary.number,
        when_unix: summary.when_unix,
        author: summary.author,
        action: summary.action,
        changes: summary.changes,
    };
    Ok(HistoryResponse { generations: all.map(listed).collect() })
}

/// Says what differs between two generations, or what applying something would change.
pub(super) async fn diff(state: &State, request: DiffRequest) -> Result<DiffResponse, Status> {
    let DiffRequest { from, to, proposed } = request;
    let in_force = state.documents();
    let by = by(state, "", "");
    let proposed = proposed.map(texts).transpose()?;
    let history = state.history().await.map_err(internal)?;
    let compared = reading(move || {
        let now = in_force.generation().number;
        if let Some((sources, prune)) = proposed {
            let from = kept(&history, &in_force, from.unwrap_or(now))?;
            return Ok(match in_force.apply(&sources, &prune, &by) {
                Ok(proposal) => compared(from.number, 0, &from.documents, &proposal.generation.documents),
                Err(problems) => DiffResponse { errors: lines(&problems), ..DiffResponse::default() },
            });
        }
        let to = kept(&history, &in_force, to.unwrap_or(now))?;
        let from = match from {
            Some(number) => number,
            None => before(&history, to.number)?,
        };
        let from = kept(&history, &in_force, from)?;
        Ok(compared(from.number, to.number, &from.documents, &to.documents))
    });
    compared.await
}

fn compared(from: u64, to: u64, before: &Kept, after: &Kept) -> DiffResponse {
    let differences = difference(before, after);
    let cut = differences.iter().map(|object| object.fields.len()).sum::<usize>() >= MAX_FIELDS;
    let object = |difference: ObjectDifference| {
        let fields = difference.fields.into_iter();
        let field = |f: crate::config::FieldDifference| diff_response::Field {
            path: f.path,
            before: f.before,
            after: f.after,
        };
        diff_response::Object {
            object: difference.object,
            change: difference.change.into(),
            fields: fields.map(field).collect(),
        }
    };
    DiffResponse { from, to, objects: differences.into_iter().map(object).collect(), cut, errors: Vec::new() }
}

/// Why something kept cannot be told.
enum Unread {
    Disk(StoreError),
    NotKept(u64),
}

impl From<StoreError> for Unread {
    fn from(error: StoreError) -> Self {
        Self::Disk(error)
    }
}

/// Reads where it may block.
async fn reading<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, Unread> + Send + 'static,
) -> Result<T, Status> {
    match tokio::task::spawn_blocking(read).await.map_err(internal)? {
        Ok(found) => Ok(found),
        Err(Unread::Disk(error)) => Err(internal(error)),
        Err(Unread::NotKept(number)) => Err(Status::not_found(format!(
            "generation {number} is not kept; `tombolo history` lists those that are"
        ))),
    }
}

/// A generation: the empty one, the one in force, or one of the disk.
fn kept(history: &History, in_force: &Documents, number: u64) -> Result<Generation, Unread> {
    match number {
        0 => Ok(Generation::default()),
        _ if number == in_force.generation().number => Ok(in_force.generation().clone()),
        _ => history.generation(number)?.ok_or(Unread::NotKept(number)),
    }
}

/// The number of the generation before this one: 0 before the first; what is too old to be kept is not taken for empty.
fn before(history: &History, number: u64) -> Result<u64, Unread> {
    match history.predecessor(number)? {
        Some(before) => Ok(before),
        None if number <= 1 => Ok(0),
        None => Err(Unread::NotKept(number - 1)),
    }
}

/// How a change is made.
struct How {
    /// It is only asked what would change.
    dry_run: bool,
    /// Only if this generation is still in force.
    if_generation: Option<u64>,
}

/// Why a change is not made.
enum Unmade {
    Problems(Vec<Problem>),
    /// This other generation is in force.
    Outdated(u64),
}

/// Changes the documents, unless it is only asked what would change.
async fn change(
    state: &State,
    How { dry_run, if_generation }: How,
    propose: impl FnOnce(&Documents) -> Result<Proposal, Vec<Problem>> + Send + 'static,
) -> Result<ApplyResponse, Status> {
    let (sender, proposed) = oneshot::channel();
    // Nobody else changes anything while this runs.
    let propose = move |documents: &Documents| {
        let in_force = documents.generation().number;
        if if_generation.is_some_and(|wanted| wanted != in_force) {
            return Err(Unmade::Outdated(in_force));
        }
        let proposal = propose(documents).map_err(Unmade::Problems)?;
        // The receiver waits below.
        let _told = sender.send((proposal.generation.number, proposal.told.clone()));
        Ok(if dry_run { None } else { Some(proposal) })
    };
    let in_force = || state.documents().generation().number;
    Ok(match state.change_documents(propose, false).await.map_err(internal)? {
        Ok(()) => {
            let (number, changes) = proposed.await.map_err(internal)?;
            let generation = if dry_run { in_force() } else { number };
            ApplyResponse { generation, changes, ..ApplyResponse::default() }
        }
        Err(Unmade::Problems(problems)) => {
            ApplyResponse { generation: in_force(), errors: lines(&problems), ..ApplyResponse::default() }
        }
        Err(Unmade::Outdated(generation)) => {
            let wanted = if_generation.unwrap_or_default();
            let error = format!(
                "generation {generation} is in force, not {wanted}: somebody else has changed something; \
                 `tombolo diff {wanted}` shows what"
            );
            ApplyResponse { generation, errors: vec![error], outdated: true, ..ApplyResponse::default() }
        }
    })
}

pub(super) fn by(state: &State, author: &str, action: &str) -> By {
    let author = author.chars().take(MAX_AUTHOR).collect();
    By { author, action: action.into(), when_unix: state.now().unix_seconds() }
}

#[allow(clippy::result_large_err)] // tonic's own error, as its handlers return it.
pub(super) fn texts(request: ApplyRequest) -> Result<(Arc<[Source]>, Prune), Status> {
    let prune = match (request.prune, request.prune_namespaces) {
        (true, namespaces) if namespaces.is_empty() => Prune::Everywhere,
        (true, namespaces) => Prune::In(namespaces.into_iter().collect()),
        (false, namespaces) if namespaces.is_empty() => Prune::Nothing,
        (false, _) => return Err(refused("namespaces to prune are named, but nothing is pruned")),
    };
    Ok((sources(request.files)?, prune))
}

#[allow(clippy::result_large_err)]
fn sources(files: Vec<File>) -> Result<Arc<[Source]>, Status> {
    if files.len() > MAX_FILES {
        return Err(refused(format!("more than {MAX_FILES} files")));
    }
    Ok(files.into_iter().map(|f| Source { name: f.name, text: f.text }).collect())
}

pub(super) fn lines(problems: &[Problem]) -> Vec<String> {
    problems.iter().map(ToString::to_string).collect()
}

//! Bodies part by part: of an owner's answer and of a request, however they come, the same data is told, and no more is taken than there is.

use waypost_policy::framing::{AnswerBody, Chunks, Part};

/// The first byte says in which pieces the others come.
///
/// # Panics
/// If a part is not of the bytes, or pieces give other data than the whole.
pub fn parts(bytes: &[u8]) {
    let Some((piece, body)) = bytes.split_first() else { return };
    let piece = usize::from(*piece % 9) + 1;
    let answer = |piece: usize| {
        let mut answer = AnswerBody::CHUNKED;
        follow(body, piece, |here| Some((answer.part(here).ok()?, answer.is_done())))
    };
    assert_are_one(&answer(body.len().max(1)), &answer(piece));
    let request = |piece: usize| {
        let mut chunks = Chunks::START;
        follow(body, piece, |here| Some((chunks.part(here).ok()?, chunks == Chunks::Done)))
    };
    let whole = request(body.len().max(1));
    assert_are_one(&whole, &request(piece));
    let mut chunks = Chunks::START;
    let taken = chunks.take(body);
    assert_eq!(whole.ended, taken.is_ok().then_some(chunks == Chunks::Done), "both ways of reading chunks find the same");
    if let Ok(taken) = taken {
        assert_eq!(whole.taken, taken);
    }
    // What is let through of a client is read alike of an owner.
    if whole.ended == Some(true) {
        let answer = answer(piece);
        assert_eq!((answer.ended, answer.data, answer.taken), (Some(true), whole.data, whole.taken));
    }
}

/// What was found in a body.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    data: Vec<u8>,
    taken: usize,
    /// Whether it came to its end; `None`: it is broken.
    ended: Option<bool>,
}

/// In pieces the same is found; of what is broken, one may have told more than the other, but nothing else.
fn assert_are_one(whole: &Found, pieces: &Found) {
    assert_eq!(whole.ended, pieces.ended);
    if whole.ended.is_some() {
        assert_eq!(whole, pieces);
    } else {
        assert!(whole.data.starts_with(&pieces.data) || pieces.data.starts_with(&whole.data), "{whole:?}, {pieces:?}");
    }
}

/// Feeds a reader piece by piece, as one who keeps what was not taken.
fn follow(body: &[u8], piece: usize, mut read: impl FnMut(&[u8]) -> Option<(Part, bool)>) -> Found {
    let mut found = Found { data: Vec::new(), taken: 0, ended: Some(false) };
    let mut come = 0;
    loop {
        let here = &body[found.taken..come];
        let Some((part, is_done)) = read(here) else {
            found.ended = None;
            return found;
        };
        assert!(
            part.taken <= here.len() && part.data.start <= part.data.end && part.data.end <= part.taken,
            "{part:?} of {} bytes",
            here.len()
        );
        found.data.extend_from_slice(&here[part.data]);
        found.taken += part.taken;
        if is_done {
            found.ended = Some(true);
            return found;
        }
        if part.taken == 0 || found.taken == come {
            if come == body.len() {
                return found;
            }
            come = body.len().min(come + piece);
        }
    }
}

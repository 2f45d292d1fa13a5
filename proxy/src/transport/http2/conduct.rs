//! What a client's HTTP/2 connection costs beside what it asks for.
//!
//! Frames that carry nothing (pings, settings, empty data, window updates, priorities) and requests that are cancelled as soon as they are made
//! (CVE-2023-44487) cost a proxy more than their sender. Neither is counted by kind: what is read is weighed against what was useful of it, as
//! nginx does, and cancelled requests against all. Data is useful when it comes, whoever reads it and when. What always holds: a connection that only asks, sends
//! and reads is never found fault with; any other is within [`WINDOW`]. The bounds on memory (heads, frames and streams that wait) are the `h2` crate's.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// What is counted is forgotten after so long.
const WINDOW: Duration = Duration::from_secs(60);
/// So many bytes of a window may be of no use, ...
const IDLE_TALK_BYTES: u64 = 1 << 20;
/// ... and so many times what was useful.
const OVERHEAD: u64 = 8;
/// So many requests of a window may be cancelled by a client before their answers, and half of all.
const CANCELLED: u64 = 200;
/// What a frame begins with: its length, kind, flags and stream (RFC 9113, section 4.1).
const HEAD_BYTES: usize = 9;
const DATA: u8 = 0;
/// The preface has no frame around it.
const PREFACE_BYTES: u64 = 24;

/// Of one connection.
#[derive(Debug, Default)]
pub(super) struct Conduct(Mutex<Option<Window>>);

#[derive(Debug)]
struct Window {
    since: Instant,
    read: u64,
    useful: u64,
    asked: u64,
    cancelled: u64,
}

/// How far a client has come in its frames.
#[derive(Debug)]
pub(super) struct Frames {
    /// What has come of the next frame's head.
    head: [u8; HEAD_BYTES],
    head_bytes: usize,
    /// So many bytes are to come before the next frame's head.
    left: u64,
    is_data: bool,
}

impl Default for Frames {
    fn default() -> Self {
        Self { head: [0; HEAD_BYTES], head_bytes: 0, left: PREFACE_BYTES, is_data: false }
    }
}

impl Frames {
    /// How many of the next bytes are data.
    pub(super) fn data_in(&mut self, mut bytes: &[u8]) -> usize {
        let mut data = 0;
        while !bytes.is_empty() {
            if self.left > 0 {
                let taken = bytes.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
                self.left -= taken as u64;
                data += if self.is_data { taken } else { 0 };
                bytes = &bytes[taken..];
                continue;
            }
            let taken = bytes.len().min(HEAD_BYTES - self.head_bytes);
            self.head[self.head_bytes..self.head_bytes + taken].copy_from_slice(&bytes[..taken]);
            self.head_bytes += taken;
            bytes = &bytes[taken..];
            if self.head_bytes == HEAD_BYTES {
                let [high, middle, low, kind, ..] = self.head;
                self.left = u64::from(u32::from_be_bytes([0, high, middle, low]));
                self.is_data = kind == DATA;
                self.head_bytes = 0;
            }
        }
        data
    }
}

impl Conduct {
    /// So many bytes have come, of which so many were data; false if that is too many for what they brought.
    pub(super) fn read(&self, bytes: usize, data: usize, now: Instant) -> bool {
        let mut window = self.window();
        let window = match &mut *window {
            Some(window) if now.saturating_duration_since(window.since) < WINDOW => window,
            over => over.insert(Window { since: now, read: 0, useful: 0, asked: 0, cancelled: 0 }),
        };
        window.read = window.read.saturating_add(bytes as u64);
        window.useful = window.useful.saturating_add(data as u64);
        window.read / OVERHEAD <= window.useful.saturating_add(IDLE_TALK_BYTES)
    }

    /// So many bytes of a head have come, or of an answer have gone.
    pub(super) fn useful(&self, bytes: usize) {
        if let Some(window) = &mut *self.window() {
            window.useful = window.useful.saturating_add(bytes as u64);
        }
    }

    /// A request has come; false if too many of them are cancelled.
    pub(super) fn asked(&self) -> bool {
        let mut window = self.window();
        let Some(window) = &mut *window else { return true };
        window.asked += 1;
        window.cancelled <= CANCELLED.max(window.asked / 2)
    }

    /// A request was cancelled by the client before it was answered.
    pub(super) fn cancelled(&self) {
        if let Some(window) = &mut *self.window() {
            window.cancelled += 1;
        }
    }

    /// A poisoned lock guards plain data that is valid after any panic.
    fn window(&self) -> MutexGuard<'_, Option<Window>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn talk_that_brings_nothing_is_too_much_and_any_download_is_not() {
        let now = Instant::now();
        let idle = Conduct::default();
        // Pings: 17 bytes each.
        let allowed = (0..1_000_000).take_while(|_| idle.read(17, 0, now)).count() as u64;
        assert_eq!(allowed, (OVERHEAD * (IDLE_TALK_BYTES + 1) - 1) / 17);
        assert!(idle.read(17, 0, now + WINDOW), "an hour of keep-alive pings is no flood");

        let downloads = Conduct::default();
        for _ in 0..1_000_000 {
            // A window update for each frame that was sent.
            assert!(downloads.read(13, 0, now));
            downloads.useful(16 << 10);
        }
    }

    #[test]
    fn requests_that_are_cancelled_at_once_are_too_many_when_they_are_more_than_the_others() {
        let now = Instant::now();
        let conduct = Conduct::default();
        assert!(conduct.read(1, 0, now));
        let mut made = 0;
        while conduct.asked() {
            made += 1;
            conduct.cancelled();
        }
        assert_eq!(made, CANCELLED + 1);
        let conduct = Conduct::default();
        assert!(conduct.read(1, 0, now));
        for at in 0..10_000 {
            assert!(conduct.asked());
            if at % 3 == 0 {
                conduct.cancelled();
            }
        }
    }

    #[test]
    fn data_is_found_among_frames_however_they_are_cut() {
        let frame = |kind: u8, payload: usize| [&(payload as u32).to_be_bytes()[1..], &[kind, 0, 0, 0, 0, 1], &vec![0; payload]].concat();
        let sent = [vec![b'P'; 24], frame(4, 18), frame(1, 30), frame(0, 1000), frame(6, 8), frame(0, 0), frame(0, 300)].concat();
        for cut in [1, 2, 7, 100, sent.len()] {
            let mut frames = Frames::default();
            let data: usize = sent.chunks(cut).map(|part| frames.data_in(part)).sum();
            assert_eq!(data, 1300, "parts of {cut}");
        }
    }

    #[test]
    fn uploads_that_nobody_reads_are_no_flood() {
        let (conduct, now) = (Conduct::default(), Instant::now());
        for _ in 0..2000 {
            assert!(conduct.read(16_393, 16_384, now));
        }
    }
}

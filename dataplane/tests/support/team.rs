//! Frames among several workers.

use dataplane::packet::{Attempt, Verdict};

use super::rig::Rig;

/// Takes a frame that comes to worker `at` from one to the other until somebody decides: what, the
/// frame as it is then, and how often it was handed over. Nobody hands over to himself or for
/// ever.
pub fn pass(
    workers: &mut [Rig],
    mut at: usize,
    frame: &[u8],
    process: impl Fn(&mut Rig, Attempt) -> (Verdict, Vec<u8>),
) -> ((Verdict, Vec<u8>), usize) {
    let mut attempt = Attempt::START;
    // Each way may take a round, and pieces go by their meeting point.
    for handed in 0..3 * (workers.len() + 2) {
        let result = process(&mut workers[at], attempt);
        let Verdict::HandOver {
            worker,
            attempt: next,
        } = result.0
        else {
            return (result, handed);
        };
        assert_ne!(usize::from(worker), at);
        assert_eq!(result.1, frame, "a frame that is handed over is unchanged");
        (at, attempt) = (usize::from(worker), next);
    }
    panic!("handed over for ever");
}

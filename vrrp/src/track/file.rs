//! A number in a file (`track_file`).

use super::Verdict;

/// The number last read.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct FileValue(i32);

impl FileValue {
    /// `init` is what it says before the file was read.
    pub const fn new(init: i32) -> FileValue {
        FileValue(init)
    }

    /// The file was read.
    pub fn observe(&mut self, value: i32) {
        self.0 = value;
    }

    /// What it says now.
    pub const fn verdict(&self) -> Verdict {
        Verdict::Value(self.0)
    }
}

//! Making a region diff.

use std::sync::{Mutex, PoisonError};

use super::{Diff, GAP_WORDS, RegionDiff, Runs, logs};
use crate::{
    Mapping, MemoryError, Object, ObjectKind,
    header::header_of,
    parallel::in_parallel_with,
    scan::{Compared, Figures, Scanner, Twin},
};

impl Diff {
    /// Compare a region with its twin. The guest must be paused: a value caught half written would count.
    ///
    /// # Errors
    /// [`MemoryError::Mismatch`] when the sizes differ or the service began anew since T0; [`MemoryError::Header`].
    pub fn compare(
        &mut self,
        name: &str,
        twin: &Mapping,
        now: &Mapping,
    ) -> Result<Figures, MemoryError> {
        let kind = ObjectKind::Region(name.to_owned());
        let size_bytes = twin.size_bytes();
        let object = Object { kind: kind.clone(), size_bytes };
        let compared = Compared { object, twin: Twin::Bytes(twin), now };
        compared.check()?;
        let header = header_of(name, now)?;
        if let (Some(was), Some(is)) = (header_of(name, twin)?, &header)
            && was != *is
        {
            let reason = format!(
                "its header is not as it was at T0 (generation {} and schema version {} then, {} and {} now): \
                 its service began anew, so what changed cannot be told; start another migration",
                was.generation(),
                was.schema_version(),
                is.generation(),
                is.schema_version()
            );
            return Err(MemoryError::Mismatch { object: kind, reason });
        }
        let (mut runs, figures) = changes(&compared)?;
        if let Some(header) = &header {
            let spans = logs::spans(header, twin, now)?;
            runs = logs::with_spans(runs, &spans, twin, now)?;
        }
        self.regions.push(RegionDiff { name: name.to_owned(), size_bytes, header, runs });
        Ok(figures)
    }
}

fn changes(compared: &Compared<'_>) -> Result<(Runs, Figures), MemoryError> {
    let found = Mutex::new((Vec::new(), Figures::default()));
    in_parallel_with(&compared.pieces()?, Scanner::default, |scanner, piece| {
        let (mut runs, mut figures) = (Runs::default(), Figures::default());
        scanner.piece(compared, piece, &mut |group| {
            let base = group.base.unwrap_or_default();
            figures.changed_bytes += group.runs(GAP_WORDS, |run| {
                figures.runs += 1;
                figures.run_bytes += run.len() as u64;
                let offset = group.start + run.start as u64;
                runs.push(offset, &base[run.clone()], &group.theirs[run]);
            });
        })?;
        figures += scanner.looked_at(piece);
        let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
        found.0.push((piece.start, runs));
        found.1 += figures;
        Ok(())
    })?;
    let (mut pieces, figures) = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    pieces.sort_unstable_by_key(|(start, _)| *start);
    let mut all = Runs::default();
    for (_, mut runs) in pieces {
        all.append(&mut runs);
    }
    Ok((all, figures))
}

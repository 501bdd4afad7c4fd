//! Tables for people.

/// Columns aligned: numbers to the right, everything else to the left; no line ends in blanks.
#[must_use]
pub fn table<const N: usize>(headings: [&str; N], rows: &[[String; N]]) -> String {
    let is_number =
        |cell: &String| !cell.is_empty() && cell.bytes().all(|byte| byte.is_ascii_digit());
    let mut text = String::new();
    let columns: [(usize, bool); N] = std::array::from_fn(|column| {
        let cells = || rows.iter().map(move |row| &row[column]);
        let widest = cells().map(|cell| cell.chars().count()).max().unwrap_or(0);
        let right = !rows.is_empty() && cells().all(is_number);
        (widest.max(headings[column].chars().count()), right)
    });
    let headings = headings.map(str::to_owned);
    for row in std::iter::once(&headings).chain(rows) {
        let mut line = String::new();
        for (cell, (width, right)) in row.iter().zip(columns) {
            let pad = " ".repeat(width - cell.chars().count());
            let (before, after) = if right { (pad.as_str(), "") } else { ("", pad.as_str()) };
            line.push_str(&format!("{before}{cell}{after}  "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Rows of a name and its value.
#[must_use]
pub fn list(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    rows.iter()
        .map(|(name, value)| format!("{name:width$}  {value}").trim_end().to_owned() + "\n")
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_to_the_right() {
        let rows = [["up".to_owned(), "7".to_owned()], ["vm0".to_owned(), "12345".to_owned()]];
        assert_eq!(table(["PORT", "RX"], &rows), "PORT     RX\nup        7\nvm0   12345\n");
        assert_eq!(table(["PORT", "RX"], &[]), "PORT  RX\n");
    }

    #[test]
    fn names_stand_to_the_left() {
        let rows = [("version", "1".to_owned()), ("id", String::new())];
        assert_eq!(list(&rows), "version  1\nid\n");
    }
}

"""The tables and figures of five papers, one program each; see docs/papers.md."""

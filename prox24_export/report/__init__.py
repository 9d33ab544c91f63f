"""The writers that render a report: HTML, Markdown, JUnit, GitHub and the terminal."""

"""One page that says whether generated sequences helped: tables, figures, and the paper's numbers beside them."""

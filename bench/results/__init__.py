"""What a comparison leaves: records, and the tables, plots and page that show them."""

"""Generated text -> typed parts. One file for each format that models write."""

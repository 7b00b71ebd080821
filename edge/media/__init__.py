"""Images, files and videos in the input: fetched, checked and turned into what the model can read."""

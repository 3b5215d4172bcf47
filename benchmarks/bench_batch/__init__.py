"""`make bench-batch`: a file of 50,000 chats, submitted, run and fetched; how long, and how much memory."""

"""What is read: arrays, files, folders and tables of items, batch by batch, and labels."""

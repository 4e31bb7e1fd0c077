"""What belongs to one run: its state, folder, checkpoints, log and the facts about its labels."""

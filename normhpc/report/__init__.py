"""One HTML file with everything a study found: sentences, tables, figures, and where each number is from.

It opens without a network and reads without JavaScript; the same records give the same bytes. Nothing here loads torch.
"""

"""What is wrong with the files of a data set, told before a training starts."""

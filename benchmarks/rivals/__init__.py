"""Other ways to do the job, each as its makers recommend, run as a module of its own."""

"""How bytes travel: the port, the retry verdict, the lanes and the backends."""

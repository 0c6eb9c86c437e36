"""What the recovery service is made of. Changes of documents flow through it in the order of MongoDB's own log:

    tail (reads the change stream)  ->  piece (whose change, of which key; stale cache entries go)
      ->  judge (waits until the audit role must have seen the event; republishes or records what is missing)
      ->  state (the resume token moves past changes that are judged, never before)

`reconcile` feeds the judge from a scan instead, where MongoDB's log no longer reaches back far enough.
"""

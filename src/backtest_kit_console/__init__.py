"""`bkm console`: what is stored, written and run, as a web page of one server.

cli.py          the command: where to listen, whom to let in
app.py          from a request to a page, and what becomes of errors
guard.py        who may ask: host names, token, cookie, forged requests, headers
sources.py      the servers that are asked, and what is kept of their answers for a moment
board.py        open positions: documents, and events over them
live.py         one reader of the feed for all browsers
actions.py      replay and drop of dead letters, each recorded first
words.py        values as people read them
pictures.py     candles and curves as SVG
pages/          a page each: what it asks for, and what its template is given
templates/      the pages' HTML; every value is escaped
static/         one style sheet, one script; each page works without the script

It stands above the engine and the memory, and nothing imports it.
"""

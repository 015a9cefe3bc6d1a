"""How gunicorn serves the guestbook in a servo."""

import os

bind = f"0.0.0.0:{os.environ.get('PORT', '8080')}"
# One process, since the book is one file; threads answer side by side.
workers = 1
threads = 8
# Gunicorn's heartbeat file: in memory, not on a container's disk.
worker_tmp_dir = "/dev/shm"
# On SIGTERM: no new connections, and this long for requests in flight (Pontoon kills after 30 s).
graceful_timeout = 25
# Longer than a balancer keeps an idle connection, so that it is never closed under a request on its way.
keepalive = 120
# Nobody in a servo talks to it.
control_socket_disable = True

#!/bin/sh
# nginx with nchan, one process, fan-out only. Usage: nchan.sh PORT SCENARIO, or nchan.sh about
# The Debian packages nginx and libnginx-mod-nchan, unpacked by .ci/tools and not installed, so that no service starts;
# ROOT names another place. Everything it writes goes to a folder of its own under TMPDIR; all the same nchan wants the
# built-in /var/lib/nginx to exist.
root=${ROOT:-$(dirname "$0")/../../.tools/nchan}
nginx=$root/usr/sbin/nginx
module=$root/usr/lib/nginx/modules/ngx_nchan_module.so
if [ ! -x "$nginx" ] || [ ! -f "$module" ]; then
  echo "nchan is not there: .ci/tools nchan" >&2
  exit 1
fi
root=$(cd "$root" && pwd)
nginx=$root/usr/sbin/nginx
module=$root/usr/lib/nginx/modules/ngx_nchan_module.so
if [ "$1" = about ]; then
  echo "$("$nginx" -v 2>&1 | sed 's,^.*nginx/,nginx ,'), nchan $(cat "$root/version")"
  echo fanout
  exit
fi
prefix=$(mktemp -d "${TMPDIR:-/tmp}/loadtest-nchan.XXXXXX")
cat >"$prefix/nginx.conf" <<END
load_module $module;
daemon off;
# One process, so that the process the harness measures is the one that works.
master_process off;
pid $prefix/nginx.pid;
error_log stderr crit;
worker_rlimit_nofile $(ulimit -Hn);
events { worker_connections $(($(ulimit -Hn) - 64)); multi_accept on; }
http {
  access_log off;
  tcp_nodelay on;
  client_body_temp_path $prefix/body;
  proxy_temp_path $prefix/proxy;
  fastcgi_temp_path $prefix/fastcgi;
  uwsgi_temp_path $prefix/uwsgi;
  scgi_temp_path $prefix/scgi;
  nchan_max_reserved_memory 256M;
  server {
    listen 127.0.0.1:$1 backlog=4096;
    location ~ ^/rooms/(.+)\$ {
      nchan_pubsub websocket;
      nchan_channel_id \$1;
      # Those who are there get it; nobody asks later.
      nchan_store_messages off;
      nchan_subscriber_first_message newest;
    }
  }
}
END
exec "$nginx" -p "$prefix" -c "$prefix/nginx.conf" -e stderr

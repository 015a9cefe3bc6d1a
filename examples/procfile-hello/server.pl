#!/usr/bin/perl
# Says hello over HTTP, and which copy of the app says it.
# Uses nothing but perl-base, which every Debian has, so it runs in a container and directly on a host alike.
#
# PREFORK processes accept side by side; each serves one connection after the other and closes it after one answer.
use strict;
use warnings;
use Errno 'EINTR';
use POSIX 'WNOHANG';
use Socket;

use constant {
    PREFORK           => 8,
    HEADER_BYTES_MAX  => 16 * 1024,
    BODY_BYTES_MAX    => 1024 * 1024,
    CLIENT_SECONDS    => 10,    # a client that says nothing must not hold a process for ever
    LINGER_SECONDS    => 1,     # for a refused client to read why, before its unread bytes reset the connection
    STOP_POLL_SECONDS => 0.1,
};

my $port = $ENV{PORT} || 8080;
my %place = map { lc($_) => $ENV{"PONTOON_$_"} || "none" } qw(RELEASE SERVO HOST);
my $stopping = 0;

socket(my $listener, PF_INET, SOCK_STREAM, 0) or die "socket: $!\n";
setsockopt($listener, SOL_SOCKET, SO_REUSEADDR, 1) or die "SO_REUSEADDR: $!\n";
bind($listener, sockaddr_in($port, INADDR_ANY)) or die "cannot listen on port $port: $!\n";
listen($listener, SOMAXCONN) or die "listen: $!\n";

$SIG{PIPE} = 'IGNORE';
my %workers;
start_worker() for 1 .. PREFORK;
$| = 1;
print "listening on port $port\n";

# SIGTERM comes to the whole process group in a servo; it is passed on for whoever sends it to this process only.
# Here, not in the loop: Perl's waitpid goes on waiting after a signal.
$SIG{TERM} = $SIG{INT} = sub { $stopping = 1; kill TERM => keys %workers };
while (%workers) {
    my $ended = waitpid(-1, $stopping ? WNOHANG : 0);
    if ($ended > 0) {
        delete $workers{$ended};
        start_worker() if !$stopping;
    } elsif ($stopping) {
        # More than once: a signal can come just before a process goes to sleep in accept.
        kill TERM => keys %workers;
        select(undef, undef, undef, STOP_POLL_SECONDS);
    }
}
print "stopped\n";

sub start_worker {
    my $pid = fork();
    if (!defined $pid) {
        warn "fork: $!\n";
        sleep 1;
        return;
    }
    if ($pid == 0) {
        work();
        exit 0;
    }
    $workers{$pid} = 1;
}

sub work {
    # An idle process leaves accept at once; a busy one ends after its answer.
    $SIG{TERM} = $SIG{INT} = sub { $stopping = 1; close $listener };
    while (!$stopping) {
        accept(my $client, $listener) or next;
        eval {
            local $SIG{ALRM} = sub { die "timeout\n" };
            alarm CLIENT_SECONDS;
            serve($client);
            alarm 0;
        };
        alarm 0;
        close $client;
    }
}

sub serve {
    my ($client) = @_;
    my ($head, $body) = read_request($client);
    return if !defined $head;
    my ($method, $target) = $head =~ m{^([A-Z]+) (\S+) HTTP/1\.[01]\r?\n};
    return answer($client, 'GET', '400 Bad Request', "not HTTP\n") if !defined $method;
    return answer($client, $method, '413 Content Too Large', "too large\n") if !defined $body;
    return answer($client, $method, '405 Method Not Allowed', "only GET, HEAD and POST\n") if $method !~ /^(GET|HEAD|POST)$/;
    my ($path) = $target =~ m{^([^?]*)};
    return answer($client, $method, '200 OK', "up\n") if $path eq '/up';
    return answer($client, $method, '404 Not Found', "not found\n") if $path ne '/';
    my $greeting = "Hello from a Procfile: release $place{release}, servo $place{servo}, host $place{host}\n";
    $greeting .= 'You sent ' . length($body) . " bytes\n" if $method eq 'POST';
    answer($client, $method, '200 OK', $greeting);
}

# The head and the body of a request; no head if the client went away, no body if it is too large.
sub read_request {
    my ($client) = @_;
    my $got = '';
    until ($got =~ /\r?\n\r?\n/) {
        return if length($got) > HEADER_BYTES_MAX;
        read_some($client, $got) or return;
    }
    my ($head, $body) = split /\r?\n\r?\n/, $got, 2;
    $head .= "\r\n";
    my ($length) = $head =~ /^content-length:\s*(\d+)\s*$/mi;
    $length ||= 0;
    # Chunked bodies are beyond this example.
    return ($head, undef) if $length > BODY_BYTES_MAX || $head =~ /^transfer-encoding:/mi;
    if ($head =~ /^expect:\s*100-continue/mi) {
        syswrite($client, "HTTP/1.1 100 Continue\r\n\r\n");
    }
    while (length($body) < $length) {
        read_some($client, $body) or return;
    }
    return ($head, $body);
}

# Appends what has come; false at the end. A stop does not cut off a request that is on its way.
sub read_some {
    my $client = shift;
    while (1) {
        my $count = sysread($client, $_[0], 64 * 1024, length $_[0]);
        return $count if defined $count || $! != EINTR;
    }
}

sub answer {
    my ($client, $method, $status, $text) = @_;
    my $response = "HTTP/1.1 $status\r\nContent-Type: text/plain\r\nContent-Length: " . length($text)
        . "\r\nConnection: close\r\n\r\n" . ($method eq 'HEAD' ? '' : $text);
    while (length $response) {
        my $written = syswrite($client, $response);
        next if !defined $written && $! == EINTR;
        return if !$written;
        substr($response, 0, $written, '');
    }
    return if $status =~ /^200/;
    alarm LINGER_SECONDS;
    shutdown($client, SHUT_WR);
    1 while sysread($client, my $rest, 64 * 1024);
}

# GpuAgentFaults - servers whose calls to the file system fail when a test says so, and a second opinion on exports.
#
#   my $node = new_faulty_node('main', conf => ...);    # as new_node, with fsync and test/fault/shim.c
#   arm($node, action => 'kill', n => 7, pid => $pid);  # kill, enospc, eio, short; sticky => 1: and all calls after it
#   my $n = calls($node);                               # changes below the tree since arm(action => 'count')
#   disarm($node); first_hit($node);                    # off; the call that was hit first
#   $node->kill9; start_faulty($node);                  # started again, with the shim
#   folder_problem($folder);                            # why it is no whole export, by Perl alone: manifest, sizes, SHA-256
#   latest_of($node), exports_of($node), private_of($node), tree($node)
package GpuAgentFaults;

use strict;
use warnings;

use Digest::SHA;
use Exporter 'import';
use Fcntl qw(O_RDWR O_CREAT);
use GpuAgentTest;
use JSON::PP;
use PostgreSQL::Test::Utils;
use Test::More;

our @EXPORT = qw(new_faulty_node start_faulty tree arm disarm calls first_hit folder_problem latest_of exports_of private_of something_of_everything);

my %action = (off => 0, count => 1, kill => 2, enospc => 3, eio => 4, short => 5);
my %control;

sub tree
{
	my ($node) = @_;
	(my $tree = $node->data_dir) =~ s{/[^/]+$}{};
	return "$tree/gpu_storage-" . $node->port;
}

sub put_control
{
	my ($node, $at, $bytes) = @_;
	sysopen(my $file, $control{ $node->name }, O_RDWR | O_CREAT) or die "control file: $!";
	sysseek($file, $at, 0);
	syswrite($file, $bytes) == length $bytes or die "control file: $!";
	close $file;
	return;
}

sub get_control
{
	my ($node, $at, $len) = @_;
	open(my $file, '<:raw', $control{ $node->name }) or die "control file: $!";
	seek($file, $at, 0);
	read($file, my $bytes, $len);
	close $file;
	return $bytes;
}

# The server is started with the shim, so all of its processes have it.
sub new_faulty_node
{
	my ($name, %option) = @_;
	my $conf = delete $option{conf} // '';

	$control{$name} = PostgreSQL::Test::Utils::tempdir_short() . '/control';
	append_to_file($control{$name}, "\0" x 4096);
	local $ENV{GA_FAULT_CONTROL} = $control{$name};
	local $ENV{LD_PRELOAD} = $ENV{GA_FAULT_SHIM} // die 'GA_FAULT_SHIM is not set: the path of the library of test/fault/shim.c';
	return new_node($name, conf => "fsync = on\nsynchronous_commit = on\nrestart_after_crash = on\nshared_buffers = 16MB\n$conf", %option);
}

sub start_faulty
{
	my ($node) = @_;
	local $ENV{GA_FAULT_CONTROL} = $control{ $node->name };
	local $ENV{LD_PRELOAD} = $ENV{GA_FAULT_SHIM};
	# Processes of a server that was killed may still be there for a moment; each works in the data directory.
	wait_until(sub { !grep { (readlink($_) // '') eq $node->data_dir } glob('/proc/[0-9]*/cwd') });
	return $node->start;
}

sub arm
{
	my ($node, %o) = @_;
	put_control($node, 0, pack('L', 0));
	put_control($node, 4, pack('LQQLLL', $o{sticky} // 0, $o{n} // 1, 0, $o{pid} // 0, $o{also} // 0, 0));
	put_control($node, 64, pack('Z960Z512', $o{path} // tree($node), ''));
	put_control($node, 0, pack('L', $action{ $o{action} }));
	return;
}

sub disarm { my ($node) = @_; put_control($node, 0, pack('L', 0)); return; }
sub calls { my ($node) = @_; return unpack('Q', get_control($node, 16, 8)); }
sub first_hit { my ($node) = @_; return unpack('Z*', get_control($node, 1024, 512)); }

sub sha256_of
{
	my ($path) = @_;
	# One that goes while it is read has none.
	return eval { Digest::SHA->new(256)->addfile($path, 'b')->hexdigest } // 'none';
}

# Why a folder is not a whole export; nothing when it is.
sub folder_problem
{
	my ($folder) = @_;
	return "$folder is absent" unless -d $folder;
	return "$folder has no manifest" unless -f "$folder/MANIFEST.json";
	my $text = eval { slurp_file("$folder/MANIFEST.json") } // return "$folder has lost its manifest";
	my @line = split /\n/, $text, -1;
	return "the manifest has " . @line . " lines" unless @line == 4 && $line[3] eq '';
	return 'the manifest is damaged' unless $line[2] eq ',"sha256":"' . Digest::SHA::sha256_hex($line[1]) . '"}';
	my $manifest = JSON::PP->new->utf8->decode($text)->{manifest};
	my %seen = ('MANIFEST.json' => 1);
	foreach my $file (map { @{ $_->{files} } } @{ $manifest->{sections} })
	{
		my $path = "$folder/$file->{name}";
		return "$path is absent" unless -f $path;
		return "$path has " . (-s $path) . " bytes" unless -s $path == $file->{nbytes};
		return "$path has another SHA-256" unless sha256_of($path) eq $file->{sha256};
		$seen{ $file->{name} } = 1;
	}
	opendir(my $dir, $folder) or return "$folder: $!";
	my @other = grep { $_ ne '.' && $_ ne '..' && !$seen{$_} } readdir $dir;
	return "@other" . ' is not in the manifest' if @other;
	return;
}

# What latest names, and its folder; exports; what is private, anywhere in the tree.
sub latest_of
{
	my ($node) = @_;
	my $file = tree($node) . '/nvme_storage/latest';
	return unless -f $file;
	my $line = slurp_file($file);
	return $line =~ /\A([^\n]+)\n\z/ ? $1 : "broken: $line";
}

sub exports_of { my ($node) = @_; return map { s{.*/}{}r } glob(tree($node) . '/nvme_storage/ckpt-*'); }

sub private_of
{
	my ($node) = @_;
	my $tree = tree($node);
	my $found = `find $tree -name '.*' ! -path $tree ! -name .server 2>/dev/null`;
	return split /\n/, $found;
}

# Agents with awkward bits, a graph, a swarm of some chunks, an expert, metrics; one checkpoint.
sub something_of_everything
{
	my ($node) = @_;
	return $node->safe_psql('postgres', q{
		SET search_path = gpuagent, public;
		SELECT store_agents(array_agg('a' || i ORDER BY i), stack(ARRAY[i, '-0'::real, 'NaN'::real]::agent_state ORDER BY i)) FROM generate_series(1, 50) i;
		SELECT store_nodes('graph', ARRAY['x', 'y'], '[[1,0],[0,1]]');
		SELECT store_edges('graph', ARRAY['x'], ARRAY['y']);
		SELECT store_swarm('swarm', (SELECT stack((ARRAY(SELECT (i * 0.001 + j)::real FROM generate_series(1, 256) j))::agent_state ORDER BY i) FROM generate_series(1, 300) i));
		SELECT store_weights('expert', 'layer.0', '[[1,2],[3,4]]', '[0.5,-0.5]');
		SELECT store_metrics('run', '{"loss": 0.25}', 3);
		SELECT create_checkpoint('first') } );
}

1;

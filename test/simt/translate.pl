# translate.pl - CUDA C++ on the standard input to C++ that calls simt_launch, on the standard output.
use strict;
use warnings;

local $/;
my $source = <STDIN>;

# name<template arguments><<<grid, block, shared, stream>>>(arguments);
my $templates = qr/(?:<[\w, ]+>)?/;
my $comma = qr/,\s*/;
$source =~ s{(\w+$templates)<<<(.+?)$comma([\w:]+)$comma(\w+)$comma([^,]+?)>>>\s*\((.*?)\);}
	{simt_launch(dim3($2), dim3($3), $4, $5, [=] { $1($6); });}gs;
$source =~ s/extern __shared__ (\w+) (\w+)\[\];/$1 *$2 = ($1 *) simt_dynamic_shared;/g;
die "what launches a kernel is in a form that is not known here\n" if $source =~ /<<</;
print $source;

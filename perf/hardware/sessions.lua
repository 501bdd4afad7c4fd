-- Pktgen-DPDK: the benches' packets. Clients' segments leave by port 0, the source's answers by port 1.
--
--   pktgen -l 4-6 -a PCI-A -a PCI-B -- -P -m "5.0,6.1" -f sessions.lua
--
-- Change what follows, not the rest.
local seconds = 30        -- measured
local settle = 110        -- before: the box adopts 10 sessions it has not seen begin per millisecond
local rate = 100          -- percent of the link
local mixed = false       -- 64, 791 and 1518 bytes in turn, instead of 64; sizes are with the check sequence

-- Sixteen ports on each address. A range steps all its fields with each packet, so the number of addresses must be odd:
-- then every pair of address and port comes, 1,000,016 of them.
local address_last = "11.0.244.36"
local port_first, port_last = 1024, 1039

local uplink = { source = "0200:0000:0902", destination = "0200:0000:0101" }
local access = { source = "0200:0000:0a01", destination = "0200:0000:0201" }

-- The same value in every packet.
local function fixed(set, port, value, still)
	set(port, "start", value)
	set(port, "inc", still)
	set(port, "min", value)
	set(port, "max", value)
end

-- From first to last and again.
local function stepped(set, port, first, last, step)
	set(port, "start", first)
	set(port, "inc", step)
	set(port, "min", first)
	set(port, "max", last)
end

local function macs(port, side)
	fixed(pktgen.range.src_mac, port, side.source, "0000:0000:0000")
	fixed(pktgen.range.dst_mac, port, side.destination, "0000:0000:0000")
end

local function common(port)
	pktgen.range.ip_proto(port, "tcp")
	if mixed then
		stepped(pktgen.range.pkt_size, port, 64, 1518, 727)
	else
		fixed(pktgen.range.pkt_size, port, 64, 0)
	end
	pktgen.set(port, "rate", rate)
	pktgen.set(port, "count", 0)
	pktgen.set_range(port, "on")
end

local function clients()
	macs("0", uplink)
	stepped(pktgen.range.src_ip, "0", "11.0.0.0", address_last, "0.0.0.1")
	stepped(pktgen.range.src_port, "0", port_first, port_last, 1)
	fixed(pktgen.range.dst_ip, "0", "10.9.0.100", "0.0.0.0")
	fixed(pktgen.range.dst_port, "0", 80, 0)
	common("0")
end

local function source()
	macs("1", access)
	fixed(pktgen.range.src_ip, "1", "10.8.0.11", "0.0.0.0")
	fixed(pktgen.range.src_port, "1", 80, 0)
	stepped(pktgen.range.dst_ip, "1", "11.0.0.0", address_last, "0.0.0.1")
	stepped(pktgen.range.dst_port, "1", port_first, port_last, 1)
	common("1")
end

local function report(after, before)
	for port = 0, 1 do
		local sent = after[port].opackets - before[port].opackets
		local received = after[1 - port].ipackets - before[1 - port].ipackets
		printf("port %d: %d sent, %d received at port %d: %.3f Mpps, %.4f %% missing\n", port, sent, received,
			1 - port, received / seconds / 1e6, 100 * (1 - received / sent))
	end
end

pktgen.screen("off")
pktgen.stop("all")
pktgen.clr()
clients()
source()
pktgen.start("0")
pktgen.delay(settle * 1000)
pktgen.start("1")
pktgen.delay(2000)
local before = pktgen.portStats("all", "port")
pktgen.delay(seconds * 1000)
local after = pktgen.portStats("all", "port")
pktgen.stop("all")
report(after, before)

import re
def resolve(p, how):
    s=open(p).read()
    pat=re.compile(r'<<<<<<< HEAD\n(.*?)=======\n(.*?)>>>>>>> [0-9a-f]+\n', re.S)
    i=iter(how)
    def f(m):
        h=next(i)
        return h(m.group(1),m.group(2)) if callable(h) else {'o':m.group(1),'t':m.group(2),'ot':m.group(1)+m.group(2),'to':m.group(2)+m.group(1)}[h]
    s=pat.sub(f,s); open(p,'w').write(s)
    assert '<<<<' not in s, p
resolve('engine/src/shard/fanout.rs',[lambda o,t:'''        let (mut picture_over, mut doubled, mut met_late) = (false, false, false);
        while cursor < end && budget > 0 && paced.is_none() && !picture_over && !met_late {
''', lambda o,t:'''                if slot.late > feed.late_seen {
                    // Filled a moment ago: its late list comes first, in the next turn.
                    met_late = true;
                    break;
                }
                let is_entry = !was_live && feed.start.is_entry(slot.meta.timestamp);
                if alone && !is_entry {
                    picture_over = true;
'''])
resolve('engine/src/shard/track.rs',[lambda o,t:o+'use spillway_proto::stream::nack;\n',lambda o,t:o+'    pub(super) repair: Repair,\n',lambda o,t:o+'            repair: Repair::new(),\n'])
resolve('proto/src/link/counters.rs',['to'])
resolve('proto/src/stream/reel.rs',['ot'])
resolve('proto/src/stream/reel_memory.rs',[lambda o,t:'''///    0        8         16                               32                       40       48     56         64
///    +--------+---------+-----------+-----+-----+-------+------+--------+--------+--------+------+----------+
///    | word   | arrival | timestamp |flags|codec| layer | slab | offset | length | before | late | reserved |
///    | 64     | 64      | 32        | 16  | 8   | 8     | 32   | 16     | 16     | 64     | 64   |          |
///    +--------+---------+-----------+-----+-----+-------+------+--------+--------+--------+------+----------+
///    word = generation (16 bits) | index + 1 (48 bits); 0: empty. before = the reel's `bytes` when it came.
///    late = one more than the packet's number among the late ones; 0: it came in order.
''','ot'])
resolve('proto/src/stream/rewrite.rs',['o'])
p='proto/src/stream/reel_memory.rs'; s=open(p).read()
s=s.replace("    pub late: AtomicU64,\n    reserved: [AtomicU64; 3],","    pub late: AtomicU64,\n    reserved: [AtomicU64; 2],")
s=s.replace("/// You",""); open(p,'w').write(s)

-- how many purchases
select count(*) from purchases;
-- revenue, to the last digit
select sum(price), min(price), max(price) from purchases;
-- events by type
select event_type, count(*) as n from events group by event_type order by event_type;
-- purchases per player
select player_id, count(*) as n from purchases group by player_id order by n desc, player_id nulls last;
-- distinct players
select count(distinct player_id) from events;
-- purchases per minute
select date_trunc('minute', event_time) as minute, count(*) as n from purchases group by 1 order by 1;
-- purchases per hour and item
select date_trunc('hour', event_time) as hour, item, count(*) from purchases group by 1, 2 order by 1, 2 nulls last;
-- daily active players
select cast(event_time as date) as day, count(distinct player_id) as players from events group by 1 order by 1;
-- top three items by revenue
select item, sum(price) as revenue from purchases group by item order by revenue desc nulls last, item limit 3;
-- average price as a double
select item, round(avg(cast(price as double)), 4) from purchases group by item order by item nulls last;
-- those without a player
select count(*) from purchases where player_id is null;
-- nulls replaced
select coalesce(player_id, 'nobody') as player, count(*) from purchases group by 1 order by 1;
-- nulls compared
select count(*) from purchases where nullif(item, 'sword') is null;
-- counts side by side
select count(*) filter (where item = 'sword') as swords, count(*) filter (where item = 'shield') as shields from purchases;
-- a case per price
select case when price >= 20 then 'dear' when price >= 5 then 'fair' else 'cheap' end as kind, count(*)
from purchases group by 1 order by 1;
-- decimals compared exactly
select count(*) from purchases where price = 9.99;
-- decimal arithmetic
select sum(price * 2) - sum(price) - sum(price) from purchases;
-- having
select player_id, sum(price) as spent from purchases group by player_id having sum(price) > 50 order by player_id nulls last;
-- between two moments
select count(*) from purchases
where event_time between timestamp '2026-03-01 00:00:00' and timestamp '2026-03-01 23:59:59';
-- one day
select count(*) from purchases where event_time >= date '2026-03-02' and event_time < date '2026-03-03';
-- moved by an interval
select min(event_time + interval '1' day), max(event_time - interval '90' minute) from purchases;
-- another zone, two hours ahead
select cast(event_time + interval '2' hour as date) as day, count(*) from events group by 1 order by 1;
-- parts of a moment
select extract(hour from event_time) as hour, count(*) from events group by 1 order by 1;
-- year and month
select year(event_time), month(event_time), day(event_time), count(*) from events group by 1, 2, 3 order by 1, 2, 3;
-- patterns in text
select count(*) from purchases where item like 's%' and item not like '%ie%';
-- text functions
select upper(item), length(item), substr(item, 1, 3), replace(item, 's', 'z'), concat(item, '!') from purchases
where item is not null group by item order by item;
-- text joined by bars
select item || '/' || coalesce(player_id, '-') as pair from purchases order by event_id limit 5;
-- letters of every alphabet
select item, length(item) from purchases where item = 'épée 剣' limit 1;
-- a member of a struct
select place.zone, count(*), round(sum(place.x), 3) from purchases group by place.zone order by place.zone nulls last;
-- players in two tables
select count(*) from (select distinct player_id from purchases) p join (select distinct player_id from join_guild) g
on p.player_id = g.player_id;
-- players who never bought
select distinct g.player_id from join_guild g left join purchases p on p.player_id = g.player_id
where p.player_id is null and g.player_id is not null order by 1;
-- exists
select count(*) from join_guild g where exists (select 1 from purchases p where p.player_id = g.player_id and p.price > 10);
-- in a subquery
select count(*) from purchases where player_id in (select player_id from join_guild where guild = 'wolves');
-- a union of two
select kind, count(*) from (select 'bought' as kind from purchases union all select 'joined' as kind from join_guild) t
group by kind order by kind;
-- except
select player_id from join_guild where player_id is not null except
select player_id from purchases where player_id is not null order by 1;
-- running number per player
select player_id, event_id, row_number() over (partition by player_id order by event_time, event_id) as n
from purchases where player_id = 'p1' order by n;
-- running total
select event_id, sum(price) over (order by event_time, event_id rows between unbounded preceding and current row) as total
from purchases where player_id = 'p2' order by event_time, event_id;
-- seconds of rank
select item, rank() over (order by count(*) desc) as place from purchases where item is not null group by item
order by place, item;
-- first and last item
select player_id, min_by(item, event_time) as first, max_by(item, event_time) as last from purchases
where player_id is not null and item is not null group by player_id order by player_id;
-- sessions: a new one after thirty minutes
with marked as (
  select player_id, event_time, case when lag(event_time) over (partition by player_id order by event_time, event_id)
    > event_time - interval '30' minute then 0 else 1 end as begins
  from events where player_id is not null)
select player_id, sum(begins) as sessions from marked group by player_id order by player_id;
-- a funnel: joined, then bought
with joined as (select player_id, min(event_time) as at from join_guild where player_id is not null group by player_id),
bought as (select p.player_id, min(p.event_time) as at from purchases p join joined j on j.player_id = p.player_id
  where p.event_time >= j.at group by p.player_id)
select (select count(*) from joined) as joined, (select count(*) from bought) as bought;
-- retention: back on the next day
with days as (select distinct player_id, cast(event_time as date) as day from events where player_id is not null),
first as (select player_id, min(day) as day from days group by player_id)
select f.day, count(*) as players, count(d.player_id) as came_back
from first f left join days d on d.player_id = f.player_id and d.day = f.day + interval '1' day group by f.day order by f.day;
-- shares of all
select item, round(100 * cast(count(*) as double) / sum(count(*)) over (), 2) as percent from purchases group by item
order by item nulls last;
-- totals with rollup
select item, host, count(*) from purchases group by rollup (item, host) order by item nulls last, host nulls last, count(*);
-- reasons of quarantine
select reason, field, count(*) from quarantine group by reason, field order by reason, field nulls last;
-- hosts of both kinds
select host as host, count(*) as count from join_guild group by host order by host nulls last;
-- spread of prices
select round(stddev(cast(price as double)), 6), round(variance(cast(price as double)), 6) from purchases
where price < 100;
-- true for any
select player_id, bool_or(price > 20) as dear from purchases where player_id is not null group by player_id order by 1;
-- none is in the future
select count(*) from purchases where event_time > current_timestamp;
-- before the last hour, and before today
select count(*) filter (where event_time < current_timestamp - interval '1' hour) as earlier,
count(*) filter (where event_time < current_date) as before_today from purchases;

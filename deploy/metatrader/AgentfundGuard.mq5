//+------------------------------------------------------------------+
//| AgentfundGuard: a guard inside the terminal.                     |
//|                                                                  |
//| It watches the heartbeat of a fund and a halt file, both in the  |
//| common folder of all terminals. While the heartbeat is older     |
//| than MaxAge seconds, cannot be read, or a halt file is there:    |
//|  - pending orders of the fund are deleted, new ones at once;     |
//|  - with CloseNew, what positions gained meanwhile is closed;     |
//|  - stops and targets of positions are left as they are.          |
//| It never opens anything, and never lifts a halt.                 |
//|                                                                  |
//| A sketch: no MetaTrader has compiled or run it. Try it on a      |
//| demonstration account before you rely on it.                     |
//+------------------------------------------------------------------+
#property copyright "The agentfund developers, Apache-2.0"
#property version   "1.00"
#property strict

input long   Magic         = 0;                          // magic of the fund; 0 guards nothing
input int    MaxAge        = 10;                         // seconds until a heartbeat is too old
input string HeartbeatFile = "agentfund\\heartbeat.txt"; // in the common folder
input string HaltFile      = "agentfund\\halt";          // in the common folder; that it is there is enough
input bool   CloseNew      = false;                      // close what positions gained since the halt began

bool   halted = false;
ulong  held_tickets[];
double held_volumes[];

int OnInit()
  {
   if(Magic<=0)
     {
      Alert("AgentfundGuard: set Magic to the fund's magic");
      return INIT_PARAMETERS_INCORRECT;
     }
   if(!EventSetTimer(1))
      return INIT_FAILED;
   Look();
   return INIT_SUCCEEDED;
  }

void OnDeinit(const int reason)
  {
   EventKillTimer();
   Print("AgentfundGuard: no longer on guard, reason ",reason);
  }

void OnTimer()
  {
   Look();
  }

void OnTradeTransaction(const MqlTradeTransaction &transaction,const MqlTradeRequest &request,const MqlTradeResult &result)
  {
   if(halted)
      Enforce();
  }

//--- seconds since the last heartbeat; -1 where it cannot be read
long HeartbeatAge()
  {
   int file=FileOpen(HeartbeatFile,FILE_READ|FILE_TXT|FILE_ANSI|FILE_COMMON|FILE_SHARE_READ|FILE_SHARE_WRITE);
   if(file==INVALID_HANDLE)
      return -1;
   string text=FileReadString(file);
   FileClose(file);
   long beat=StringToInteger(text);
   if(beat<=0)
      return -1;
   long age=(long)TimeGMT()-beat;
   // A beat from the future is a clock that was set: no better than no beat.
   return age<-MaxAge ? -1 : age;
  }

void Look()
  {
   long age=HeartbeatAge();
   bool halt=FileIsExist(HaltFile,FILE_COMMON);
   bool now=halt || age<0 || age>MaxAge;
   if(now && !halted)
     {
      Print("AgentfundGuard: ",halt ? "a halt is set" : age<0 ? "no heartbeat can be read" : "the heartbeat is "+(string)age+" s old");
      Remember();
     }
   if(!now && halted)
      Print("AgentfundGuard: the heartbeat is back and no halt is set");
   halted=now;
   if(halted)
      Enforce();
  }

//--- what is held when the halt begins
void Remember()
  {
   int total=PositionsTotal();
   ArrayResize(held_tickets,0);
   ArrayResize(held_volumes,0);
   for(int i=0;i<total;i++)
     {
      ulong ticket=PositionGetTicket(i);
      if(ticket==0 || PositionGetInteger(POSITION_MAGIC)!=Magic)
         continue;
      int at=ArraySize(held_tickets);
      ArrayResize(held_tickets,at+1);
      ArrayResize(held_volumes,at+1);
      held_tickets[at]=ticket;
      held_volumes[at]=PositionGetDouble(POSITION_VOLUME);
     }
  }

double Remembered(const ulong ticket)
  {
   for(int i=0;i<ArraySize(held_tickets);i++)
      if(held_tickets[i]==ticket)
         return held_volumes[i];
   return 0.0;
  }

void Enforce()
  {
   for(int i=OrdersTotal()-1;i>=0;i--)
     {
      ulong ticket=OrderGetTicket(i);
      if(ticket!=0 && OrderGetInteger(ORDER_MAGIC)==Magic)
         Delete(ticket);
     }
   if(!CloseNew)
      return;
   for(int i=PositionsTotal()-1;i>=0;i--)
     {
      ulong ticket=PositionGetTicket(i);
      if(ticket==0 || PositionGetInteger(POSITION_MAGIC)!=Magic)
         continue;
      double gained=PositionGetDouble(POSITION_VOLUME)-Remembered(ticket);
      double step=SymbolInfoDouble(PositionGetString(POSITION_SYMBOL),SYMBOL_VOLUME_STEP);
      if(gained>step/2)
         Close(ticket,gained);
     }
  }

void Delete(const ulong ticket)
  {
   MqlTradeRequest request={};
   MqlTradeResult  result={};
   request.action=TRADE_ACTION_REMOVE;
   request.order=ticket;
   if(!OrderSend(request,result))
      Print("AgentfundGuard: order ",ticket," was not deleted: ",result.retcode," ",result.comment);
  }

void Close(const ulong ticket,const double volume)
  {
   if(!PositionSelectByTicket(ticket))
      return;
   string symbol=PositionGetString(POSITION_SYMBOL);
   bool   is_long=PositionGetInteger(POSITION_TYPE)==POSITION_TYPE_BUY;
   long   modes=SymbolInfoInteger(symbol,SYMBOL_FILLING_MODE);
   MqlTradeRequest request={};
   MqlTradeResult  result={};
   request.action=TRADE_ACTION_DEAL;
   request.position=ticket;
   request.symbol=symbol;
   request.volume=volume;
   request.type=is_long ? ORDER_TYPE_SELL : ORDER_TYPE_BUY;
   request.price=SymbolInfoDouble(symbol,is_long ? SYMBOL_BID : SYMBOL_ASK);
   request.deviation=100;
   request.magic=Magic;
   request.type_filling=(modes&SYMBOL_FILLING_FOK)!=0 ? ORDER_FILLING_FOK
                        : (modes&SYMBOL_FILLING_IOC)!=0 ? ORDER_FILLING_IOC : ORDER_FILLING_RETURN;
   request.comment="agentfund guard";
   if(!OrderSend(request,result))
      Print("AgentfundGuard: position ",ticket," was not made smaller: ",result.retcode," ",result.comment);
  }
